//! Reads configuration: a TOML file, then environment variables over it, into a typed value; errors name the key, where
//! it stands, and what to write instead.

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::nearest::nearest;
use crate::failure::{Code, Failure};

/// What the variables that override configuration begin with: `CHANCERY__SECTION__KEY`.
pub const PREFIX: &str = "CHANCERY__";

/// Sections whose keys are names that the operator chose. Names have hyphens where a variable has underscores.
const NAMED: [&str; 2] = ["profiles", "directories"];

/// Reads a configuration.
///
/// `file` is the file's name for messages and its content; `variables` are name and value of environment variables,
/// those with another prefix are skipped. A variable's value is read as TOML, and as a string where that fails.
///
/// # Errors
/// [`Code::Configuration`] with the key, the file and line or the variable, and the nearest known key.
pub fn read<T: DeserializeOwned>(
    file: (&str, &str),
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<T, Failure> {
    let (name, text) = file;
    let from_file: T = toml::from_str(text).map_err(|error| file_failure(name, text, &error))?;
    let mut overrides: Vec<(String, String)> =
        variables.into_iter().filter(|(variable, _)| variable.starts_with(PREFIX)).collect();
    if overrides.is_empty() {
        return Ok(from_file);
    }
    overrides.sort();
    let mut table: Table = toml::from_str(text).map_err(|error| file_failure(name, text, &error))?;
    // One after the other, so that the first at fault is known. A section may want several keys together, so only the
    // whole decides whether there is a fault.
    let mut configured = Ok(from_file);
    let mut first_failure = None;
    for (variable, text) in overrides {
        let path = key_path(&variable)?;
        let value = toml_value(&text);
        let is_text = value.is_str();
        let as_toml = with(&table, &variable, &path, value)?;
        let (next, result) = match as_toml.clone().try_into::<T>() {
            // `1234` may be the label of a token.
            Err(error) if !is_text => {
                let as_text = with(&table, &variable, &path, Value::String(text))?;
                match as_text.clone().try_into::<T>() {
                    Ok(value) => (as_text, Ok(value)),
                    Err(_) => (as_toml, Err(error)),
                }
            }
            result => (as_toml, result),
        };
        table = next;
        configured = result.map_err(|error| {
            let failure = variable_failure(&variable, &path, &error);
            first_failure.get_or_insert(failure).clone()
        });
    }
    configured
}

/// `CHANCERY__ACME__HTTP01_PORT` → `["acme", "http01_port"]`.
fn key_path(variable: &str) -> Result<Vec<String>, Failure> {
    let rest = variable.strip_prefix(PREFIX).unwrap_or(variable);
    let mut path: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
    if path.len() < 2 || path.iter().any(String::is_empty) {
        return Err(Failure::new(
            Code::Configuration,
            format!("the environment variable {variable} names no configuration key"),
            "write CHANCERY__SECTION__KEY, as in CHANCERY__ACME__HTTP01_PORT=5002",
        ));
    }
    for index in 1..path.len() {
        if path.get(index - 1).is_some_and(|section| NAMED.contains(&section.as_str()))
            && let Some(name) = path.get_mut(index)
        {
            *name = name.replace('_', "-");
        }
    }
    Ok(path)
}

fn toml_value(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}"));
    match parsed {
        Ok(mut table) if table.len() == 1 => {
            table.remove("value").unwrap_or_else(|| Value::String(text.to_owned()))
        }
        _ => Value::String(text.to_owned()),
    }
}

fn with(table: &Table, variable: &str, path: &[String], value: Value) -> Result<Table, Failure> {
    let mut changed = table.clone();
    let mut place = &mut changed;
    let Some((key, sections)) = path.split_last() else { return Ok(changed) };
    for section in sections {
        let entry = place.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        place = entry.as_table_mut().ok_or_else(|| {
            Failure::new(
                Code::Configuration,
                format!(
                    "the environment variable {variable} takes '{section}' for a section, but it is a key"
                ),
                format!("set {PREFIX}{} instead", section.to_ascii_uppercase()),
            )
        })?;
    }
    place.insert(key.clone(), value);
    Ok(changed)
}

fn file_failure(name: &str, text: &str, error: &toml::de::Error) -> Failure {
    let Some(span) = error.span() else {
        return Failure::new(Code::Configuration, format!("{name}: {}", error.message()), "correct the file");
    };
    let line = text.get(..span.start).unwrap_or(text).matches('\n').count() + 1;
    let place = format!("{name}, line {line}");
    let key =
        DeTable::parse(text).ok().and_then(|table| key_at(table.get_ref(), span.start)).unwrap_or_default();
    explain(&place, &key, error.message())
}

/// The dotted path of the key that stands at, or whose value begins at, a byte of the file.
fn key_at(table: &DeTable<'_>, position: usize) -> Option<String> {
    for (key, value) in table {
        if key.span().contains(&position) {
            return Some(key.get_ref().to_string());
        }
        let inner = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, position),
            _ => None,
        };
        if let Some(inner) = inner {
            return Some(format!("{}.{inner}", key.get_ref()));
        }
        if value.span().contains(&position) {
            return Some(key.get_ref().to_string());
        }
    }
    None
}

fn variable_failure(variable: &str, path: &[String], error: &toml::de::Error) -> Failure {
    explain(&format!("environment variable {variable}"), &path.join("."), error.message())
}

/// Puts serde's message into words that say what to write.
fn explain(place: &str, key: &str, message: &str) -> Failure {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let unknown = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        let section = key.strip_suffix(unknown).unwrap_or("");
        let detail = format!("{place}: unknown key '{section}{unknown}'");
        let fix = match nearest(unknown, known.iter().copied()) {
            Some(near) => format!("did you mean '{section}{near}'?"),
            None if known.is_empty() => "remove it".to_owned(),
            None => format!("remove it, or use one of: {}", known.join(", ")),
        };
        return Failure::new(Code::Configuration, detail, fix);
    }
    if message.starts_with("unknown variant") {
        let found = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        let detail = format!("{place}: {key} can't be '{found}'");
        return Failure::new(Code::Configuration, detail, format!("write one of: {}", known.join(", ")));
    }
    if let Some(missing) = message.strip_prefix("missing field ") {
        let missing = missing.trim_matches('`');
        let name = if key.is_empty() { missing.to_owned() } else { format!("{key}.{missing}") };
        return Failure::new(
            Code::Configuration,
            format!("{place}: {name} is not set"),
            format!("add `{missing} = …`"),
        );
    }
    let message = message.trim();
    let detail =
        if key.is_empty() { format!("{place}: {message}") } else { format!("{place}: {key}: {message}") };
    Failure::new(Code::Configuration, detail, "correct the value; `chancery init` writes a commented example")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        acme: Acme,
        profiles: BTreeMap<String, Profile>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Acme {
        http01_port: u16,
        dns_servers: Vec<String>,
        label: String,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Profile {
        days: u32,
        #[serde(default)]
        minutes: u32,
    }

    fn sample(text: &str, variables: &[(&str, &str)]) -> Result<Sample, Failure> {
        read(("chancery.toml", text), variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn variables_override_the_file_and_are_read_as_toml_then_as_text() {
        let read = sample(
            "[acme]\nhttp01_port = 80\n",
            &[
                ("CHANCERY__ACME__HTTP01_PORT", "5002"),
                ("CHANCERY__ACME__DNS_SERVERS", "[\"127.0.0.1:8053\"]"),
                ("CHANCERY__ACME__LABEL", "1234"),
                ("CHANCERY_DATA", "/elsewhere"),
            ],
        )
        .unwrap();
        assert_eq!(read.acme.http01_port, 5002);
        assert_eq!(read.acme.dns_servers, ["127.0.0.1:8053"]);
        assert_eq!(read.acme.label, "1234");
    }

    #[test]
    fn a_variable_reaches_a_name_with_hyphens_and_several_make_one_section() {
        let read = sample(
            "",
            &[
                ("CHANCERY__PROFILES__TLS_SERVER__MINUTES", "1"),
                ("CHANCERY__PROFILES__TLS_SERVER__DAYS", "90"),
            ],
        )
        .unwrap();
        assert_eq!(read.profiles["tls-server"], Profile { days: 90, minutes: 1 });
    }

    #[test]
    fn an_unknown_key_is_named_with_line_and_nearest() {
        let failure = sample("# first\n[acme]\nhttp1_port = 80\n", &[]).unwrap_err();
        assert_eq!(failure.detail, "chancery.toml, line 3: unknown key 'acme.http1_port'");
        assert_eq!(failure.fix, "did you mean 'acme.http01_port'?");
        let failure = sample("[acmee]\n", &[]).unwrap_err();
        assert_eq!(failure.detail, "chancery.toml, line 1: unknown key 'acmee'");
        let failure = sample("", &[("CHANCERY__ACME__HTTP1_PORT", "1")]).unwrap_err();
        assert_eq!(
            failure.detail,
            "environment variable CHANCERY__ACME__HTTP1_PORT: unknown key 'acme.http1_port'"
        );
        assert_eq!(failure.fix, "did you mean 'acme.http01_port'?");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key() {
        let failure = sample("[acme]\nhttp01_port = \"x\"\n", &[]).unwrap_err();
        assert!(failure.detail.starts_with("chancery.toml, line 2: acme.http01_port: "), "{failure:?}");
        let failure = sample("[acme]\nhttp01_port = \n", &[]).unwrap_err();
        assert!(failure.detail.contains("line 2"), "{failure:?}");
        let failure = sample("", &[("CHANCERY__ACME__HTTP01_PORT", "x")]).unwrap_err();
        assert!(
            failure.detail.starts_with("environment variable CHANCERY__ACME__HTTP01_PORT: acme.http01_port"),
            "{failure:?}"
        );
    }
}
