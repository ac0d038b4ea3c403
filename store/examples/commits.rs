//! Measures durable commits per second with 32 clients, beside the disk's own rate of fsync.
//!
//! `cargo run --release -p store --example commits [DIRECTORY]`: the directory decides which disk is measured.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use ca_core::acme::account::Thumbprint;
use ca_core::acme::{Account, AccountState};
use ca_core::id::AccountId;
use ca_core::random::SystemRandom;
use ca_core::store::{AcmeReads, AuthorityReads, Change, Commit, Role, Store, Version};
use ca_core::time::{Clock, Stopwatch, SystemClock};
use rand_core::Rng;
use store::permissions::Sharing;
use store::socket::{CommitServer, Peers, RemoteStore};
use store::sqlite::{Writer, WriterOptions};

const CLIENTS: u32 = 32;
const SPAN: Duration = Duration::from_secs(5);

type Error = Box<dyn std::error::Error + Send + Sync>;

fn account() -> Result<Account, Error> {
    let now = SystemClock.now();
    let mut thumbprint = [0; 32];
    SystemRandom.fill_bytes(&mut thumbprint);
    Ok(Account {
        id: AccountId::generate(now, &mut SystemRandom),
        directory: "default".to_owned().try_into()?,
        thumbprint: Thumbprint(thumbprint),
        former_keys: Vec::new(),
        jwk: "{}".to_owned(),
        contacts: Vec::new(),
        terms_agreed_at: None,
        external_account: None,
        limits: std::collections::BTreeMap::new(),
        state: AccountState::Valid,
        created_at: now,
        version: Version::NEW,
    })
}

/// Commits per second of [`CLIENTS`] that commit one after the other, each for [`SPAN`].
async fn measure(store: Arc<dyn Store>) -> Result<f64, Error> {
    let clock = Stopwatch::start();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut count = 0_u32;
                while clock.elapsed() < SPAN {
                    let change = Change::PutAccount(account()?);
                    store.commit(Commit { changes: vec![change], ..Commit::default() }).await?;
                    count += 1;
                }
                Ok::<_, Error>(count)
            })
        })
        .collect();
    let mut sum = 0;
    for client in clients {
        sum += client.await??;
    }
    Ok(f64::from(sum) / clock.elapsed().as_secs_f64())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent)?;

    let mut file = File::create(dir.path().join("fsync"))?;
    let (clock, mut syncs) = (Stopwatch::start(), 0_u32);
    while clock.elapsed() < Duration::from_secs(1) {
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        syncs += 1;
    }
    println!("fsync of 4 KiB          {:>8.0}/s", f64::from(syncs) / clock.elapsed().as_secs_f64());

    let store = Writer::open(dir.path(), WriterOptions::default())?;
    println!("commits, {CLIENTS} clients     {:>8.0}/s", measure(store.clone()).await?);

    let peers = Peers { owner: nix::unistd::geteuid().as_raw(), roles: Vec::new() };
    let server = CommitServer::bind(dir.path(), Sharing::Private, peers)?;
    let serving = tokio::spawn(server.serve(store.clone(), std::future::pending()));
    let remote = RemoteStore::connect(dir.path(), Role::Ca)?;
    println!("the same by the socket  {:>8.0}/s", measure(remote.clone()).await?);

    let (clock, mut reads) = (Stopwatch::start(), 0_u32);
    let some = remote.accounts(None, 1).await?.rows.first().map(|account| account.id);
    while let Some(id) = some
        && clock.elapsed() < Duration::from_secs(2)
    {
        remote.account(id).await?;
        reads += 1;
    }
    println!("point reads, one client {:>8.0}/s", f64::from(reads) / clock.elapsed().as_secs_f64());
    println!("log                     {:>8} KiB", store.sizes().await?.wal_bytes / 1024);
    serving.abort();
    store.close().await;
    Ok(())
}
