//! JSON objects that must be objects: a derived `Deserialize` also reads an array, member by member.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A struct that is read from a JSON object and from nothing else. Every struct that stands in what clients send is
/// wrapped in it, wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

/// Takes a map and, by its defaults, refuses all else.
struct Members<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members))
    }
}

#[cfg(test)]
mod tests {
    use super::Object;
    use crate::wire::IdentifierBody;

    #[test]
    fn an_array_is_no_object_at_any_depth() {
        type List = Vec<Object<IdentifierBody>>;
        let good = r#"[{"type":"dns","value":"a.example"}]"#;
        assert_eq!(serde_json::from_str::<List>(good).unwrap()[0].0.kind, "dns");
        for bad in
            [r#"[["dns","a.example"]]"#, r#"["dns"]"#, "[null]", "[7]", r#"{"type":"dns","value":"a"}"#]
        {
            assert!(serde_json::from_str::<List>(bad).is_err(), "{bad}");
        }
        // What the derived implementation alone makes of it.
        assert!(serde_json::from_str::<Vec<IdentifierBody>>(r#"[["dns","a.example"]]"#).is_ok());
    }
}
