//! pkilint's linters as judges of certificates, CRLs (RFC 5280) and OCSP responses (RFC 6960).

use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::program::{command, python_tool, succeed};

/// What pkilint can look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// A certificate (RFC 5280).
    Certificate,
    /// A CRL for end-entity certificates.
    Crl,
    /// A CRL for CA certificates.
    AuthorityCrl,
    /// An OCSP response (RFC 6960).
    OcspResponse,
}

impl Document {
    /// pkilint's program for it, with the arguments that say what it is.
    const fn linter(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Certificate => ("lint_pkix_cert", &[]),
            Self::Crl => ("lint_crl", &["--type", "CRL", "--profile", "PKIX"]),
            Self::AuthorityCrl => ("lint_crl", &["--type", "ARL", "--profile", "PKIX"]),
            Self::OcspResponse => ("lint_ocsp_response", &[]),
        }
    }
}

/// Runs the main functions of pkilint's programs, one after the other, as their command lines would, and prints what each
/// one printed: loading them takes far longer than a lint, so that a process for each document would cost most of the
/// time.
const RUN_ALL: &str = r#"
import contextlib, importlib, io, json, sys

def run(linter, arguments):
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        importlib.import_module("pkilint.bin." + linter).main(arguments)
    return {"printed": printed.getvalue(), "errors": errors.getvalue()}

print(json.dumps([run(*call) for call in json.loads(sys.argv[1])]))
"#;

/// What pkilint finds in documents (PEM or DER) at the levels ERROR and FATAL, one line each.
///
/// # Errors
/// If it can't read one of them at all.
pub fn pkilint(documents: &[(Document, Vec<u8>)]) -> Result<Vec<String>> {
    let directory = tempfile::Builder::new().prefix("chancery-pkilint-").tempdir()?;
    let mut calls = Vec::new();
    for (number, (document, content)) in documents.iter().enumerate() {
        let file = directory.path().join(number.to_string());
        fs::write(&file, content)?;
        let (linter, what) = document.linter();
        let mut arguments = vec!["lint"];
        arguments.extend(what);
        arguments.extend(["--severity", "ERROR", "--format", "JSON"]);
        arguments.push(file.to_str().context("a temporary directory that is not UTF-8")?);
        calls.push(json!([linter, arguments]));
    }
    let mut python = command(python_tool("python3")?);
    let finished = succeed(python.args(["-c", RUN_ALL]).arg(Value::from(calls).to_string()))?;
    let runs: Vec<Value> = serde_json::from_str(&finished.stdout).with_context(|| finished.to_string())?;
    if runs.len() != documents.len() {
        bail!("pkilint made {} reports on {} documents", runs.len(), documents.len());
    }
    let mut findings = Vec::new();
    for ((document, _), run) in documents.iter().zip(&runs) {
        let printed = run["printed"].as_str().context("a run that printed nothing")?;
        let report: Value = serde_json::from_str(printed)
            .with_context(|| format!("pkilint made no report on a {document:?}: {run}"))?;
        findings.extend(read(*document, &report)?);
    }
    Ok(findings)
}

/// The findings of one report.
fn read(document: Document, report: &Value) -> Result<Vec<String>> {
    let results = report["results"].as_array().context("a report without results")?;
    let mut findings = Vec::new();
    for result in results {
        let descriptions = result["finding_descriptions"].as_array().context("a result without findings")?;
        for finding in descriptions {
            findings.push(format!(
                "{document:?}: {} {} at {}: {}",
                finding["severity"].as_str().unwrap_or_default(),
                finding["code"].as_str().unwrap_or_default(),
                result["node_path"].as_str().unwrap_or_default(),
                finding["message"].as_str().unwrap_or_default(),
            ));
        }
    }
    Ok(findings)
}
