//! A plain HTTP/1.0 client for the PKI and metrics listeners: what is sent and what comes back, nothing hidden.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// One response, body complete.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header field of that (lower-case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// Fetches an `http://` URL.
///
/// # Errors
/// If the connection fails or the answer is not HTTP; any status code is a response.
pub fn get(url: &str) -> Result<Response> {
    request("GET", url, &[], &[])
}

/// Posts a body to an `http://` URL.
///
/// # Errors
/// As [`get`].
pub fn post(url: &str, content_type: &str, body: &[u8]) -> Result<Response> {
    request("POST", url, &[("Content-Type", content_type)], body)
}

/// Sends one request with these header fields and reads the answer to its end.
///
/// # Errors
/// As [`get`].
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not an http URL"))?;
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) => (host, format!("/{path}")),
        None => (rest, "/".to_owned()),
    };
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let exchange = || -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(head(method, &path, host, headers, body.len()).as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().with_context(|| format!("{method} {url}"))?;
    parse(&answer).with_context(|| format!("{method} {url}: {:?}", String::from_utf8_lossy(&answer)))
}

/// The start of a request, up to its body.
pub(crate) fn head(method: &str, path: &str, host: &str, headers: &[(&str, &str)], length: usize) -> String {
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if method != "GET" && method != "HEAD" {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    head
}

/// Reads a whole answer.
pub(crate) fn parse(answer: &[u8]) -> Result<Response> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("no end of the header")?;
    let head = std::str::from_utf8(&answer[..end]).context("the header is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .filter(|line| line.starts_with("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .context("no status line")?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').context("a header field without a colon")?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let response = Response { status, headers, body: answer[end + 4..].to_vec() };
    if let Some(length) = response.header("content-length")
        && length.parse() != Ok(response.body.len())
        && !response.body.is_empty()
    {
        bail!("Content-Length is {length}, the body has {} octets", response.body.len());
    }
    Ok(response)
}
