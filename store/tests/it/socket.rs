//! The battery through the commit socket, and what is the socket's own.

use std::fs;
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use ca_core::acme::external_account::{SealingKeyRecord, Uses};
use ca_core::id::RenewalPullId;
use ca_core::random::SystemRandom;
use ca_core::store::{
    AcmeReads, AuthorityReads, CertificateReads, Change, Commit, Commits, IssuerKind, IssuerState, Role,
    Store, StoreError, Topic, Version,
};
use ca_core::time::{Stopwatch, Timestamp};
use store::permissions::Sharing;
use store::socket::{CommitServer, Peers, RemoteStore};
use store::sqlite::Writer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::battery::run_battery;
use crate::fixtures::*;
use crate::group_commit::{Jam, batches};

/// A client that lives with its server.
struct Connected {
    _served: Served,
    client: Arc<RemoteStore>,
}

impl Connected {
    fn open() -> Self {
        let served = Served::open();
        let client = served.client(Role::Ca);
        Self { _served: served, client }
    }

    fn store(&self) -> Arc<dyn Store> {
        self.client.clone()
    }
}

run_battery!(Connected::open());

/// Peers among whom we are not the owner and have these roles.
fn peers(roles: &[Role]) -> Peers {
    Peers { owner: uid() + 1, roles: roles.iter().map(|role| (uid(), *role)).collect() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_commits_its_own_domain_and_nothing_else() {
    let served = Served::over(Direct::open(), peers(&[Role::Acme]));
    let acme = served.client(Role::Acme);
    let account = account(NOW);
    let mut create = change(Change::PutAccount(account.clone()));
    create.audit = vec![acme_event(&account)];
    acme.commit(create).await.unwrap();
    assert!(acme.account(account.id).await.unwrap().is_some());

    let record = certificate("issuing-1", 0, &["a.example.org"]);
    served.direct.store.commit(reserve(&record)).await.unwrap();
    served.direct.store.commit(issue(&record)).await.unwrap();
    let issuer = issuer("issuing-9", IssuerKind::Issuing, IssuerState::Active, NOW);
    let forged = Commit { audit: vec![event("forged", NOW)], ..Commit::default() };
    let external = external_account(NOW, Uses::Many);
    let put = Change::PutExternalAccount(Box::new(external.clone()));
    served.direct.store.commit(change(put.clone())).await.unwrap();
    let sealing_key = |role| {
        let key = SealingKeyRecord { role, public_key: vec![1; 32], created_at: NOW, version: Version::NEW };
        change(Change::PutSealingKey(key))
    };
    acme.commit(sealing_key(Role::Acme)).await.unwrap();
    acme.commit(bind(&external, Version(1), &crate::fixtures::account(NOW))).await.unwrap();
    // It would stop signing until the year 9999.
    let mut ahead = Commit { audit: vec![acme_event(&account)], ..Commit::default() };
    ahead.audit[0].at = Timestamp::MAX;
    for commit in [
        ahead,
        reserve(&certificate("issuing-1", 0, &["bank.example.org"])),
        revoke(&record.id),
        change(Change::PutIssuer(Box::new(issuer))),
        change(Change::PublishCrl(crl("issuing-1", 0, 1))),
        change(put),
        sealing_key(Role::Ocsp),
        change(Change::RemoveRenewalPull(RenewalPullId::generate(NOW, &mut SystemRandom))),
        change(Change::ForgetSealingKey(Role::Acme)),
        forged,
    ] {
        let result = acme.commit(commit).await;
        assert!(matches!(result, Err(StoreError::Refused(_))), "{result:?}");
    }
    assert_eq!(served.direct.store.certificate(record.id).await.unwrap().unwrap().state.name(), "issued");
    assert_eq!(served.direct.store.audit(0, 9).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_uid_acts_only_as_its_roles() {
    let served = Served::over(Direct::open(), peers(&[Role::Acme]));
    for role in [Role::Ca, Role::Ocsp, Role::Crl] {
        let result = served.client(role).commit(Commit::default()).await;
        let Err(StoreError::Refused(reason)) = result else { panic!("{role}: {result:?}") };
        assert!(reason.contains("acts as acme"), "{reason}");
    }
    served.client(Role::Acme).commit(Commit::default()).await.unwrap();
    let strangers = Served::over(Direct::open(), peers(&[]));
    let result = strangers.client(Role::Acme).commit(Commit::default()).await;
    let Err(StoreError::Refused(reason)) = result else { panic!("{result:?}") };
    assert!(reason.contains(&uid().to_string()) && reason.contains("store.role_users"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_hears_of_what_others_commit() {
    let served = Served::open();
    let client = served.client(Role::Ocsp);
    client.commit(Commit::default()).await.unwrap();
    let record = certificate("issuing-1", 0, &[]);
    let (watched, elsewhere) = (Topic::Certificate(record.id.clone()), Topic::Crls);
    let (woken, mut not_woken) = (client.watch(&watched), client.watch(&elsewhere));
    served.direct.store.commit(reserve(&record)).await.unwrap();
    served.direct.store.commit(abandon(&record.id)).await.unwrap();
    woken.await;
    assert!(client.certificate(record.id).await.unwrap().unwrap().state.revocation().is_some());
    assert!(timeout(Duration::ZERO, &mut not_woken).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_ca_is_away_commits_are_busy_at_once_and_reads_go_on() {
    let mut served = Served::open();
    let client = served.client(Role::Ca);
    let account = account(NOW);
    client.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    served.stop().await;
    let asked = Stopwatch::start();
    for _ in 0..5 {
        let result = client.commit(Commit::default()).await;
        assert!(matches!(result, Err(StoreError::Busy(_))), "{result:?}");
    }
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(client.account(account.id).await.unwrap().is_some());

    let waiting = client.watch(&Topic::Crls);
    served.serve(Peers { owner: uid(), roles: Vec::new() });
    // Woken by the reconnection: a change may have been missed.
    timeout(Duration::from_secs(10), waiting).await.unwrap();
    client.commit(change(Change::PutAccount(self::account(NOW)))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_start_before_ca() {
    let dir = tempfile::tempdir().unwrap();
    let client = RemoteStore::connect(dir.path(), Role::Ca).unwrap();
    assert!(matches!(client.commit(Commit::default()).await, Err(StoreError::Busy(_))));
    assert!(matches!(client.issuers().await, Err(StoreError::Busy(_))));
    let store = Writer::open(dir.path(), options()).unwrap();
    let _served = Served::over(Direct { dir, store }, Peers { owner: uid(), roles: Vec::new() });
    client.commit(Commit::default()).await.unwrap();
    assert_eq!(client.issuers().await, Ok(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commits_are_under_way_at_once() {
    let served = Served::open();
    let client = served.client(Role::Ca);
    let tasks: Vec<_> = (0..500)
        .map(|n| {
            let client = Arc::clone(&client);
            tokio::spawn(async move {
                let account = account(NOW);
                let put = change(Change::PutAccount(account.clone()));
                client.commit(put.clone()).await.unwrap();
                if n % 5 == 0 {
                    assert_eq!(
                        client.commit(put).await,
                        Err(StoreError::Conflict),
                        "answers find their askers"
                    );
                }
                assert!(client.account(account.id).await.unwrap().is_some());
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_what_is_under_way() {
    let mut served = Served::open();
    let client = served.client(Role::Ca);
    client.commit(Commit::default()).await.unwrap();
    let store = Arc::clone(&served.direct.store);
    let jam = Jam::new(&served.direct);
    let before = batches(&store);
    let accounts: Vec<_> = (0..50).map(|_| account(NOW)).collect();
    let tasks: Vec<_> = accounts
        .iter()
        .map(|account| {
            let (client, commit) = (Arc::clone(&client), change(Change::PutAccount(account.clone())));
            tokio::spawn(async move { client.commit(commit).await })
        })
        .collect();
    while batches(&store) == before {
        tokio::task::yield_now().await;
    }
    // At least one is in the writer's hands now, which can't go on before the stop was asked for.
    tokio::join!(served.stop(), async { jam.release() });
    let mut answered = 0;
    for (task, account) in tasks.into_iter().zip(&accounts) {
        let stored = store.account(account.id).await.unwrap().is_some();
        match task.await.unwrap() {
            Ok(()) => {
                assert!(stored, "acknowledged and not there");
                answered += 1;
            }
            Err(StoreError::Busy(_)) => assert!(!stored, "made, and the answer was thrown away"),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(answered > 0);
}

/// A server that takes no more, but has not answered all yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_read_even_if_nothing_more_can_be_sent() {
    let dir = tempfile::tempdir().unwrap();
    let path = store::socket::path(dir.path());
    fs::create_dir(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let client = RemoteStore::connect(dir.path(), Role::Ca).unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_frame(&mut stream).await;
    stream.write_all(&framed(r#""welcome""#)).await.unwrap();
    let commit = |client: &Arc<RemoteStore>| {
        let client = Arc::clone(client);
        tokio::spawn(async move { client.commit(Commit::default()).await })
    };
    let first = commit(&client);
    read_frame(&mut stream).await;
    let stream = stream.into_std().unwrap();
    stream.shutdown(Shutdown::Read).unwrap();
    let mut stream = UnixStream::from_std(stream).unwrap();
    // Those that were queued before the client noticed stay without an answer for now.
    let noticed = || timeout(Duration::from_millis(50), commit(&client));
    while noticed().await.is_err() {}
    stream.write_all(&framed(r#"{"answer":{"id":0,"error":null}}"#)).await.unwrap();
    assert_eq!(first.await.unwrap(), Ok(()));
}

async fn read_frame(stream: &mut UnixStream) {
    let length = stream.read_u32().await.unwrap();
    stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_over_the_limit_is_refused_and_the_connection_lives() {
    let served = Served::open();
    let client = served.client(Role::Ca);
    let mut account = account(NOW);
    account.contacts = vec!["x".repeat(5 * 1024 * 1024)];
    let result = client.commit(change(Change::PutAccount(account))).await;
    assert!(matches!(result, Err(StoreError::Refused(_))), "{result:?}");
    client.commit(Commit::default()).await.unwrap();
}

/// Sends raw octets and returns whatever comes back until the server closes the connection.
async fn raw(served: &Served, octets: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(store::socket::path(served.direct.dir.path())).await.unwrap();
    // The server may close before it has read all.
    let _ = stream.write_all(octets).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ =
        timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("the server hangs");
    answer
}

fn framed(json: &str) -> Vec<u8> {
    [&u32::try_from(json.len()).unwrap().to_be_bytes()[..], json.as_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_frames_end_their_own_connection_only() {
    let served = Served::open();
    let hello = framed(r#"{"protocol":1,"role":"ca"}"#);
    let with = |more: &[u8]| [&hello[..], more].concat();
    for octets in [
        b"".to_vec(),
        b"\0".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        u32::MAX.to_be_bytes().to_vec(),
        framed("{}"),
        framed(r#"{"protocol":1,"role":"emperor"}"#),
        [&2000_u32.to_be_bytes()[..], &[b' '; 2000]].concat(),
        with(&u32::MAX.to_be_bytes()),
        with(&framed("")),
        with(&framed(r#"{"id":-1,"commit":{}}"#)),
        with(&framed(&"[".repeat(100_000))),
        with(&[0, 0, 1, 0, b'{']),
    ] {
        raw(&served, &octets).await;
    }
    let answer = raw(&served, &framed(r#"{"protocol":9,"role":"ca"}"#)).await;
    assert!(String::from_utf8_lossy(&answer).contains("version 1"), "{answer:?}");
    served.client(Role::Ca).commit(Commit::default()).await.unwrap();
}

#[tokio::test]
async fn the_socket_has_the_mode_of_its_sharing() {
    let direct = Direct::open();
    let gid = nix::unistd::getegid().as_raw();
    for (sharing, directory, mode) in [(Sharing::Private, 0o700, 0o600), (Sharing::Group(gid), 0o2750, 0o660)]
    {
        let path = store::socket::path(direct.dir.path());
        let _server = CommitServer::bind(direct.dir.path(), sharing, Peers::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, directory);
    }
}
