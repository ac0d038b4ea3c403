//! What Chancery's own store did, from its `/metrics`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

use super::connection::{Connection, Endpoint};

/// How many syncs a checkpoint takes at the most: of the log, of the file, and of the log's new beginning.
const SYNCS_OF_CHECKPOINT: f64 = 3.0;

/// Work of the server's store.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StoreWork {
    /// Commits, many of which may share a transaction.
    pub commits: f64,
    /// Transactions, each made durable by a sync, and the syncs of checkpoints.
    pub syncs: f64,
    /// Reads that went to the file.
    pub reads: f64,
}

impl StoreWork {
    /// What it has done so far, by the metrics at this URL; one that answers within moments.
    ///
    /// # Errors
    /// If there are none of Chancery.
    pub async fn read(url: &str) -> Result<Self> {
        let mut connection = Connection::new(Endpoint::new(url, None)?);
        let asked = connection.exchange(Method::GET, url, None, Bytes::new());
        let answer = tokio::time::timeout(Duration::from_secs(10), asked).await??;
        ensure!(answer.status() == StatusCode::OK, "{url}: {}", answer.status());
        let text = std::str::from_utf8(answer.body()).context("the metrics are not text")?;
        let sum = |metric: &str| {
            let values = text.lines().filter_map(|line| {
                let labels = line.strip_prefix(metric)?;
                labels.starts_with([' ', '{']).then(|| labels.rsplit(' ').next()?.parse::<f64>().ok())?
            });
            values.reduce(|sum, value| sum + value).with_context(|| format!("{url} has no {metric}"))
        };
        let batches = sum("chancery_store_commit_batch_size_count")?;
        let checkpoints = sum("chancery_store_checkpoints_total")?;
        Ok(Self {
            commits: sum("chancery_store_commits_total")?,
            syncs: batches + SYNCS_OF_CHECKPOINT * checkpoints,
            // A store that was never read has no such line.
            reads: sum("chancery_store_reads_total").unwrap_or(0.0),
        })
    }

    /// What was done since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            commits: self.commits - before.commits,
            syncs: self.syncs - before.syncs,
            reads: self.reads - before.reads,
        }
    }

    pub(super) fn each(self, count: f64) -> Self {
        Self { commits: self.commits / count, syncs: self.syncs / count, reads: self.reads / count }
    }
}
