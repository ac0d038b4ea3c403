//! Other processes and other users: what was acknowledged survives SIGKILL, and readers read whatever the writer does.
//!
//! The other process is this test binary again, started on one of the tests at the end, which do their part only when
//! told where.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use ca_core::id::AccountId;
use ca_core::store::{AcmeReads, AuthorityReads, Change, Commit, Commits, Role, StoreError};
use store::permissions::Sharing;
use store::socket::RemoteStore;
use store::sqlite::{Writer, WriterOptions};

use crate::fixtures::*;

const DIRECTORY: &str = "STORE_TEST_DIRECTORY";
/// Some uid and gid that own nothing.
const NOBODY: u32 = 54_321;

fn sharing() -> Sharing {
    let group = if nix::unistd::geteuid().is_root() { NOBODY } else { nix::unistd::getegid().as_raw() };
    Sharing::Group(group)
}

fn shared_options() -> WriterOptions {
    WriterOptions { sharing: sharing(), ..options() }
}

fn start(mut command: Command, test: &str, directory: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(DIRECTORY, directory);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

fn this_binary() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

/// What a child says after `word`; libtest's own lines are passed over.
fn say(line: &str, word: &str) -> Option<String> {
    line.split_once(word).map(|(_, rest)| rest.trim().to_owned())
}

/// A writing child that has acknowledged some commits.
fn writing_child(directory: &Path, commits: usize) -> (Child, Vec<AccountId>) {
    let (child, lines) = start(this_binary(), "durability::a_child_that_writes", directory);
    let acknowledged = lines.map_while(Result::ok).filter_map(|line| say(&line, "ACKNOWLEDGED"));
    let acknowledged = acknowledged.take(commits).map(|id| id.parse().unwrap()).collect::<Vec<_>>();
    assert_eq!(acknowledged.len(), commits, "the child ended early");
    (child, acknowledged)
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn no_acknowledged_commit_is_lost_by_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for round in 0..10 {
        let (child, acknowledged) = writing_child(dir.path(), 20 + 17 * round);
        kill(child);
        all.extend(acknowledged);
    }
    let store = Writer::open(dir.path(), options()).unwrap();
    for id in &all {
        assert!(store.account(*id).await.unwrap().is_some(), "{id} was acknowledged and is lost");
    }
    let mut events = 0;
    loop {
        // Checks that they are dense, too.
        let page = store.audit(events, 1000).await.unwrap();
        if page.is_empty() {
            break;
        }
        events += page.len() as u64;
    }
    assert!(events >= all.len() as u64);
    let raw = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let accounts: u64 =
        raw.query_row("SELECT COUNT(*) FROM accounts", [], |row| row.get::<_, u32>(0)).unwrap().into();
    assert_eq!(accounts, events, "account and event stand or fall together");
}

/// Reads in another process: as another user when we are root, who may become one; else as ourselves.
fn read_elsewhere(directory: &Path) -> (usize, bool) {
    let command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        let id = NOBODY.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        command.arg(std::env::current_exe().unwrap());
        command
    } else {
        eprintln!("not root: the other process reads as the same user");
        this_binary()
    };
    let (mut child, lines) = start(command, "durability::a_child_that_reads", directory);
    let (mut read, mut writable) = (None, false);
    for line in lines.map_while(Result::ok) {
        read = read.or_else(|| say(&line, "READ").map(|count| count.parse().unwrap()));
        writable |= say(&line, "WRITABLE").is_some();
    }
    assert!(child.wait().unwrap().success());
    (read.expect("the child read nothing"), writable)
}

#[tokio::test]
async fn another_user_reads_while_the_writer_runs_is_stopped_or_killed_and_cannot_write() {
    let base = tempfile::tempdir().unwrap();
    fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
    let directory = base.path().join("data");
    let root = nix::unistd::geteuid().is_root();

    let store = Writer::open(&directory, shared_options()).unwrap();
    for _ in 0..3 {
        store.commit(change(Change::PutAccount(account(NOW)))).await.unwrap();
    }
    assert_eq!(read_elsewhere(&directory), (3, !root), "while the writer runs");
    store.commit(change(Change::PutAccount(account(NOW)))).await.unwrap();
    store.close().await;
    drop(store);
    assert_eq!(read_elsewhere(&directory), (4, !root), "after a clean stop");

    let (child, acknowledged) = writing_child(&directory, 5);
    kill(child);
    let (read, writable) = read_elsewhere(&directory);
    assert!(read >= 4 + acknowledged.len(), "{read} after SIGKILL");
    assert_eq!(writable, !root);

    let again = Writer::open(&directory, shared_options()).unwrap();
    again.commit(change(Change::PutAccount(account(NOW)))).await.unwrap();
    assert!(read_elsewhere(&directory).0 > read, "and the writer after that is not disturbed");
}

#[tokio::test]
async fn a_reader_goes_on_across_the_writers_death_and_return() {
    let dir = tempfile::tempdir().unwrap();
    let reader = RemoteStore::connect(dir.path(), Role::Ocsp).unwrap();
    assert!(matches!(reader.accounts(None, 9).await, Err(StoreError::Busy(_))), "there is no store yet");
    let (child, acknowledged) = writing_child(dir.path(), 5);
    assert!(reader.account(acknowledged[4]).await.unwrap().is_some());
    kill(child);
    assert!(reader.account(acknowledged[4]).await.unwrap().is_some());
    let store = Writer::open(dir.path(), options()).unwrap();
    let late = account(NOW);
    store.commit(change(Change::PutAccount(late.clone()))).await.unwrap();
    assert!(reader.account(late.id).await.unwrap().is_some(), "a read sees what was committed before it");
    store.close().await;
    assert!(reader.account(late.id).await.unwrap().is_some());
}

/// The part of the writing process.
#[tokio::test]
async fn a_child_that_writes() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let shared = fs::metadata(&directory).unwrap().permissions().mode() & 0o7777 == 0o2750;
    let options = if shared { shared_options() } else { options() };
    let store = Writer::open(Path::new(&directory), options).unwrap();
    // For ever: the parent kills us.
    loop {
        let account = account(NOW);
        let commit =
            Commit { audit: vec![acme_event(&account)], ..change(Change::PutAccount(account.clone())) };
        store.commit(commit).await.unwrap();
        println!("ACKNOWLEDGED {}", account.id);
    }
}

/// The part of the reading process.
#[tokio::test]
async fn a_child_that_reads() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = Path::new(&directory);
    let store = RemoteStore::connect(directory, Role::Ocsp).unwrap();
    println!("READ {}", store.accounts(None, 10_000).await.unwrap().rows.len());
    for file in ["store.db", "store.db-wal", "store.db-shm"] {
        if fs::OpenOptions::new().append(true).open(directory.join(file)).is_ok() {
            println!("WRITABLE {file}");
        }
    }
    if fs::write(directory.join("planted"), "").is_ok() {
        println!("WRITABLE directory");
        fs::remove_file(directory.join("planted")).unwrap();
    }
}
