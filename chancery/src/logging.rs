//! The log, on standard error: for people on a terminal, one JSON object a line elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use ca_core::time::{Clock, SystemClock};

use crate::config::LogFormat;

/// RFC 3339 with milliseconds, from the one clock.
struct Rfc3339;

impl FormatTime for Rfc3339 {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        let now = SystemClock.now();
        let text = now.to_string();
        let whole = text.strip_suffix('Z').unwrap_or(&text);
        write!(w, "{whole}.{:03}Z", now.as_millis().rem_euclid(1000))
    }
}

/// Starts logging; a second call in a process changes nothing.
///
/// `default_level` holds unless `CHANCERY_LOG` says otherwise, in the syntax of `tracing`'s filters.
pub fn start(format: LogFormat, default_level: &str) {
    let filter = EnvFilter::try_from_env("CHANCERY_LOG").unwrap_or_else(|_| EnvFilter::new(default_level));
    let terminal = std::io::stderr().is_terminal();
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_timer(Rfc3339);
    let started = if human {
        registry.with(layer.with_ansi(terminal).with_target(false)).try_init()
    } else {
        registry.with(layer.json().flatten_event(true)).try_init()
    };
    // Somebody, such as a test, logs already.
    drop(started);
}
