//! RenewalInfo objects, [RFC 9773 §4.2](https://www.rfc-editor.org/rfc/rfc9773#section-4.2).

use ca_core::acme::renewal::RenewalInfo;
use serde::Serialize;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RenewalInfoBody {
    suggested_window: WindowBody,
    #[serde(rename = "explanationURL", skip_serializing_if = "Option::is_none")]
    explanation_url: Option<String>,
}

#[derive(Debug, Serialize)]
struct WindowBody {
    start: String,
    end: String,
}

impl From<&RenewalInfo> for RenewalInfoBody {
    fn from(info: &RenewalInfo) -> Self {
        Self {
            suggested_window: WindowBody {
                start: info.window.start.to_string(),
                end: info.window.end.to_string(),
            },
            explanation_url: info.explanation_url.clone(),
        }
    }
}
