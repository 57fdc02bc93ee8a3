//! Promises of the store. What must survive `kill -9` is written by a child process: this test binary, run again.

use super::letters::LETTERS_MAX;
use super::*;
use loom_api::view::DeadLetter;
use loom_core::lifecycle::Phase;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

fn unit(name: &str) -> UnitId {
    name.parse().unwrap()
}

fn record(run: u64) -> Record {
    Record { run: RunId(run), phase: Phase::Live, wanted: true, ready: true, ..Record::never_ran() }
}

fn audit(unit: &UnitId, call: &str, stage: &str) -> AuditRecord {
    AuditRecord {
        seq: 0,
        time: 0,
        stage: stage.into(),
        unit: unit.clone(),
        run: RunId(1),
        call: call.into(),
        tool: "fs:read".into(),
        arguments: serde_json::json!({}),
        rule: String::new(),
        outcome: "allowed".into(),
        duration_ms: None,
        result_bytes: None,
    }
}

/// A store in which `a.agent` is in its first run.
async fn store_with_run(dir: &Path) -> (Store, UnitId) {
    let store = Store::open(dir).unwrap();
    let a = unit("a.agent");
    store.put_records(vec![(a.clone(), record(1))]).await.unwrap();
    (store, a)
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// The log file that was written last.
fn log(dir: &Path) -> PathBuf {
    let logs = files(&dir.join("db"))
        .into_iter()
        .filter(|(path, text)| path.extension().is_some_and(|e| e == "log") && !text.is_empty());
    logs.map(|(path, _)| path).max().expect("a log with something in it")
}

#[tokio::test]
async fn what_was_stored_is_there_after_opening_again() {
    let home = tempfile::tempdir().unwrap();
    let (store, a) = store_with_run(home.path()).await;
    assert_eq!(store.state_put(&a, RunId(1), "count", b"1".to_vec(), None).await.unwrap(), 1);
    assert_eq!(store.state_put(&a, RunId(1), "count", b"2".to_vec(), Some(1)).await.unwrap(), 2);
    assert_eq!(store.audit_append(audit(&a, "c1", "decided")).await.unwrap(), 1);
    assert_eq!(store.audit_append(audit(&a, "c1", "ended")).await.unwrap(), 2);
    store.close().await.unwrap();
    assert!(matches!(store.state_get(&a, "count").await, Err(StoreError::Failed { .. })));

    let store = Store::open(home.path()).unwrap();
    assert_eq!(store.records().unwrap(), BTreeMap::from([(a.clone(), record(1))]));
    assert_eq!(store.state_get(&a, "count").await.unwrap(), Some((b"2".to_vec(), 2)));
    assert_eq!(store.audit_append(audit(&a, "c2", "decided")).await.unwrap(), 3);
    let stages: Vec<_> = store.audit_list(None, 10).unwrap().into_iter().map(|r| (r.seq, r.call, r.stage)).collect();
    let wanted = [(1, "c1", "decided"), (2, "c1", "ended"), (3, "c2", "decided")];
    assert_eq!(stages, wanted.map(|(seq, call, stage)| (seq, call.to_owned(), stage.to_owned())));
    assert_eq!(store.audit_list(Some(&unit("b.agent")), 10).unwrap(), []);
    assert_eq!(store.audit_list(Some(&a), 1).unwrap()[0].seq, 3);
    assert_eq!(store.health(), Health::default());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_write_that_expects_another_version_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (store, a) = store_with_run(home.path()).await;
    let put = |value: &str, version| store.state_put(&a, RunId(1), "k", value.as_bytes().to_vec(), version);
    assert!(matches!(put("x", Some(3)).await, Err(StateError::Conflict { version: 0 })));
    assert_eq!(put("x", Some(0)).await.unwrap(), 1);
    assert!(matches!(put("y", Some(0)).await, Err(StateError::Conflict { version: 1 })));
    assert!(matches!(store.state_delete(&a, RunId(1), "k", Some(9)).await, Err(StateError::Conflict { version: 1 })));
    assert_eq!(store.state_get(&a, "k").await.unwrap(), Some((b"x".to_vec(), 1)));
    store.state_delete(&a, RunId(1), "k", Some(1)).await.unwrap();
    store.state_delete(&a, RunId(1), "k", None).await.unwrap();
    assert_eq!(store.state_get(&a, "k").await.unwrap(), None);
    // Two that arrive together are seen one after the other, also within one batch.
    let (first, second) = tokio::join!(put("1", Some(0)), put("2", Some(0)));
    assert_eq!(first.unwrap(), 1);
    assert!(matches!(second, Err(StateError::Conflict { version: 1 })));
    store.close().await.unwrap();
}

#[tokio::test]
async fn an_older_run_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (store, a) = store_with_run(home.path()).await;
    let put = |run, value: &str| store.state_put(&a, RunId(run), "k", value.as_bytes().to_vec(), None);
    put(1, "one").await.unwrap();
    store.put_records(vec![(a.clone(), record(2))]).await.unwrap();
    assert!(matches!(put(1, "late").await, Err(StateError::Fenced { current: RunId(2) })));
    assert!(matches!(store.state_delete(&a, RunId(1), "k", None).await, Err(StateError::Fenced { .. })));
    put(2, "two").await.unwrap();
    store.set_run(&a, RunId(3));
    assert!(matches!(put(2, "late").await, Err(StateError::Fenced { current: RunId(3) })));
    store.set_run(&a, RunId(1));
    assert!(matches!(put(1, "late").await, Err(StateError::Fenced { current: RunId(3) })));
    assert!(matches!(put(9, "early").await, Err(StateError::Fenced { .. })));
    store.close().await.unwrap();
    // Also across a restart of the supervisor: the newest record says who may write.
    let store = Store::open(home.path()).unwrap();
    let late = store.state_put(&a, RunId(1), "k", b"late".to_vec(), None).await;
    assert!(matches!(late, Err(StateError::Fenced { current: RunId(2) })));
    assert_eq!(store.state_get(&a, "k").await.unwrap(), Some((b"two".to_vec(), 2)));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_unit_sees_only_its_own_keys() {
    let home = tempfile::tempdir().unwrap();
    let (store, a) = store_with_run(home.path()).await;
    let b = unit("a@x.agent");
    store.set_run(&b, RunId(1));
    for key in ["b/2", "a", "b/1", "c"] {
        store.state_put(&a, RunId(1), key, b"0".to_vec(), None).await.unwrap();
    }
    store.state_put(&b, RunId(1), "b/9", b"0".to_vec(), None).await.unwrap();
    assert_eq!(store.state_scan(&a, "", 100).await.unwrap(), ["a", "b/1", "b/2", "c"]);
    assert_eq!(store.state_scan(&a, "b/", 100).await.unwrap(), ["b/1", "b/2"]);
    assert_eq!(store.state_scan(&a, "b/", 1).await.unwrap(), ["b/1"]);
    assert_eq!(store.state_scan(&b, "", 100).await.unwrap(), ["b/9"]);
    store.close().await.unwrap();
}

#[tokio::test]
async fn sizes_and_keys_have_limits() {
    let home = tempfile::tempdir().unwrap();
    let (store, a) = store_with_run(home.path()).await;
    let put = |key: String, bytes: usize| {
        let (store, a) = (store.clone(), a.clone());
        async move { store.state_put(&a, RunId(1), &key, vec![b'x'; bytes], None).await }
    };
    put("k".repeat(STATE_KEY_MAX_BYTES), STATE_VALUE_MAX_BYTES).await.unwrap();
    assert!(matches!(put("k".into(), STATE_VALUE_MAX_BYTES + 1).await, Err(StateError::TooLarge { .. })));
    for key in [String::new(), "k".repeat(STATE_KEY_MAX_BYTES + 1), "a b".into(), "a\0b".into(), "ä".into()] {
        assert!(matches!(put(key.clone(), 1).await, Err(StateError::BadKey { .. })), "{key:?}");
    }
    for n in 0..62 {
        put(format!("n{n}"), STATE_VALUE_MAX_BYTES).await.unwrap();
    }
    let full = put("one-more".into(), STATE_VALUE_MAX_BYTES).await;
    assert!(matches!(full, Err(StateError::TooLarge { limit: STATE_UNIT_MAX_BYTES, .. })), "{full:?}");
    put("n0".into(), 10).await.unwrap();
    put("one-more".into(), STATE_VALUE_MAX_BYTES).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn many_writers_share_few_syncs() {
    let home = tempfile::tempdir().unwrap();
    let (store, a) = store_with_run(home.path()).await;
    let before = store.syncs();
    let writers: Vec<_> = (0..2000)
        .map(|n| {
            let (store, a) = (store.clone(), a.clone());
            tokio::spawn(async move { store.state_put(&a, RunId(1), &format!("k{n}"), b"v".to_vec(), None).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    let syncs = store.syncs() - before;
    assert!(syncs <= 200, "2000 writes took {syncs} syncs");
    assert_eq!(store.state_scan(&a, "", 5000).await.unwrap().len(), 2000);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_decision_is_synced_and_an_ending_is_not_waited_for() {
    let home = tempfile::tempdir().unwrap();
    let (store, a) = store_with_run(home.path()).await;
    let before = store.syncs();
    store.audit_append(audit(&a, "c", "decided")).await.unwrap();
    assert_eq!(store.syncs(), before + 1);
    store.audit_append(audit(&a, "c", "ended")).await.unwrap();
    assert_eq!(store.syncs(), before + 1);
    // It is synced within a second or so all the same.
    let limit = std::time::Instant::now() + Duration::from_secs(10);
    while store.syncs() == before + 1 {
        assert!(std::time::Instant::now() < limit, "never synced");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_failed_write_acknowledges_nothing_and_the_store_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let (store, a) = store_with_run(home.path()).await;
    let put = |value: &str| store.state_put(&a, RunId(1), "k", value.as_bytes().to_vec(), None);
    put("before").await.unwrap();
    store.inner.fail_writes.store(1, Ordering::SeqCst);
    assert!(matches!(put("lost").await, Err(StateError::Store(StoreError::Write { .. }))));
    assert_eq!(store.health(), Health::default(), "once is repaired by opening again");
    assert_eq!(store.state_get(&a, "k").await.unwrap(), Some((b"before".to_vec(), 1)));
    put("after").await.unwrap();

    store.inner.fail_writes.store(2, Ordering::SeqCst);
    assert!(put("lost").await.is_err());
    assert!(put("lost").await.is_err());
    assert!(store.health().failed.is_some(), "twice in a row is shown");
    assert!(matches!(put("too soon").await, Err(StateError::Store(StoreError::Failed { .. }))));
    assert_eq!(store.state_get(&a, "k").await.unwrap(), Some((b"after".to_vec(), 2)), "reading goes on");
    // With the cause gone it heals by itself, without a restart.
    let limit = std::time::Instant::now() + Duration::from_secs(10);
    while put("healed").await.is_err() {
        assert!(std::time::Instant::now() < limit, "{:?}", store.health());
    }
    assert_eq!(store.health(), Health::default());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_newer_store_is_refused_and_not_touched() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = store_with_run(home.path()).await;
    store.close().await.unwrap();
    fs::write(home.path().join("schema"), "2\n").unwrap();
    let before = files(home.path());
    let error = Store::open(home.path()).err().expect("refused");
    assert!(matches!(error, StoreError::Newer { found: 2, supported: 1, .. }), "{error}");
    assert!(error.to_string().contains("--state-dir"), "{error}");
    assert_eq!(files(home.path()), before);
}

#[tokio::test]
async fn a_second_handle_on_the_same_store_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = store_with_run(home.path()).await;
    assert!(matches!(Store::open(home.path()), Err(StoreError::InUse)));
    store.close().await.unwrap();
}

/// Not a test: what the tests below run in a process of its own. Writes, and says each number once it is acknowledged.
#[test]
#[ignore = "started by other tests"]
fn child_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os("LOOM_TEST_STORE") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(Path::new(&dir)).unwrap();
        let a = unit("a.agent");
        let run = store.records().unwrap().get(&a).map_or(1, |record| record.run.0 + 1);
        store.put_records(vec![(a.clone(), record(run))]).await.unwrap();
        let mut n = store.state_get(&a, "n").await.unwrap().map_or(0, |(value, _)| number(&value));
        println!("\nrun {run}");
        loop {
            n += 1;
            store.state_put(&a, RunId(run), "n", n.to_string().into_bytes(), None).await.unwrap();
            println!("{n}");
        }
    });
}

/// Long enough that the mark has been written behind the first eighth of what was said.
const MARKED: Duration = Duration::from_secs(1);

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

fn start_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::child_writes_until_it_is_killed", "--ignored", "--nocapture"])
        .env("LOOM_TEST_STORE", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills it once `count` numbers were acknowledged and `least` has passed; the last run and number it said.
fn kill_after(mut child: Child, count: usize, least: Duration) -> (u64, u64) {
    let start = std::time::Instant::now();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut run, mut last) = (0, 0);
    let mut read = |line: String| match line.strip_prefix("run ") {
        Some(text) => run = text.parse().unwrap(),
        None => last = line.parse().unwrap_or(last),
    };
    let mut seen = 0;
    while seen < count || start.elapsed() < least {
        let line = lines.next().expect("the child goes on until it is killed").unwrap();
        seen += usize::from(line.parse::<u64>().is_ok());
        read(line);
    }
    child.kill().unwrap();
    // What it had said before it died counts too. A line cut short is not a number it said: the pipe keeps whole writes.
    lines.map_while(Result::ok).for_each(&mut read);
    child.wait().unwrap();
    (run, last)
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_supervisor_is_killed() {
    let home = tempfile::tempdir().unwrap();
    for round in 0..8 {
        let (run, said) = kill_after(start_child(home.path()), 1 + round * 7, Duration::ZERO);
        let store = Store::open(home.path()).unwrap();
        let a = unit("a.agent");
        let (value, _) = store.state_get(&a, "n").await.unwrap().expect("something was acknowledged");
        let stored = number(&value);
        // The next one may have been written and not been said.
        assert!(stored == said || stored == said + 1, "round {round}: said {said}, stored {stored}");
        assert_eq!(store.records().unwrap()[&a].run, RunId(run));
        assert_eq!(store.health(), Health::default(), "round {round}");
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_what_was_acknowledged_stays() {
    // What a power cut leaves: the beginning of a record that was never acknowledged, or zeros.
    let begun = [0xaa, 0xbb, 0xcc, 0xdd, 0x00, 0x70, 0x01, 0x12, 0x13];
    for tail in [&begun[..], &[0; 4096][..]] {
        let home = tempfile::tempdir().unwrap();
        let (_, said) = kill_after(start_child(home.path()), 20, Duration::ZERO);
        fs::OpenOptions::new().append(true).open(log(home.path())).unwrap().write_all(tail).unwrap();
        let store = Store::open(home.path()).unwrap();
        let (value, _) = store.state_get(&unit("a.agent"), "n").await.unwrap().unwrap();
        assert!(number(&value) >= said);
        assert_eq!(store.health(), Health::default());
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_flipped_bit_is_reported_and_a_copy_is_kept() {
    let home = tempfile::tempdir().unwrap();
    kill_after(start_child(home.path()), 100, MARKED);
    let path = log(home.path());
    let mut bytes = Vec::new();
    fs::File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
    let early = bytes.len() / 8;
    bytes[early] ^= 1;
    fs::write(&path, bytes).unwrap();
    let store = Store::open(home.path()).unwrap();
    let losses = store.health().losses;
    assert_eq!(losses.len(), 1, "{losses:?}");
    assert!(losses[0].missing_writes > 0, "{losses:?}");
    let copies = fs::read_dir(home.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("damaged-"));
    assert_eq!(copies.count(), 1, "{losses:?}");
    // It goes on from what is sound, and says so until a person has seen it.
    let a = unit("a.agent");
    store.put_records(vec![(a.clone(), record(1000))]).await.unwrap();
    store.state_put(&a, RunId(1000), "n", b"1".to_vec(), None).await.unwrap();
    store.close().await.unwrap();
    let store = Store::open(home.path()).unwrap();
    assert_eq!(store.health().losses, losses);
    store.clear_losses().await.unwrap();
    store.close().await.unwrap();
    let store = Store::open(home.path()).unwrap();
    assert_eq!(store.health(), Health::default());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_removed_log_is_noticed() {
    let home = tempfile::tempdir().unwrap();
    kill_after(start_child(home.path()), 100, MARKED);
    fs::remove_file(log(home.path())).unwrap();
    let store = Store::open(home.path()).unwrap();
    let losses = store.health().losses;
    assert!(losses.len() == 1 && losses[0].missing_writes > 0, "{losses:?}");
    store.close().await.unwrap();
}

/// Prints what `make bench` wants to know; run it by name.
#[test]
#[ignore = "a measurement"]
fn measure_opening_and_size() {
    let home = tempfile::tempdir().unwrap();
    let rss = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned()
    };
    println!("before: {}", rss());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for round in 0..6 {
            let start = std::time::Instant::now();
            let store = Store::open(home.path()).unwrap();
            println!("open {round}: {:?}, {}", start.elapsed(), rss());
            let a = unit("a.agent");
            let start = std::time::Instant::now();
            let n = 200;
            for _ in 0..n {
                store.put_records(vec![(a.clone(), record(1))]).await.unwrap();
            }
            println!("{:?} per synced write, {}", start.elapsed() / n, rss());
            let start = std::time::Instant::now();
            if round < 3 {
                store.close().await.unwrap();
                println!("close {:?}", start.elapsed());
            } else {
                std::mem::forget(store.clone());
                store.close().await.unwrap();
            }
        }
    });
}

#[tokio::test]
async fn dead_letters_outlive_the_store_and_only_the_newest_of_a_unit_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let letter = |name: &str, n: usize| DeadLetter {
        unit: unit(name),
        run: RunId(1),
        id: format!("event-{n}"),
        time: 1000 + n as u64,
        topic: "unit.a.ask".into(),
        source: "/people".into(),
        data: "{}".into(),
        data_bytes: 2,
    };
    let (store, a) = store_with_run(dir.path()).await;
    store.letter_put(letter("b.agent", 0)).await.unwrap();
    for n in 0..LETTERS_MAX + 3 {
        store.letter_put(letter("a.agent", n)).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let letters = Store::open(dir.path()).unwrap().letter_list(None).unwrap();
    let (of_a, of_b): (Vec<_>, Vec<_>) = letters.into_iter().partition(|letter| letter.unit == a);
    assert_eq!(of_b, [letter("b.agent", 0)]);
    assert_eq!(of_a.len(), LETTERS_MAX);
    assert_eq!(
        (of_a[0].clone(), of_a[LETTERS_MAX - 1].clone()),
        (letter("a.agent", 3), letter("a.agent", LETTERS_MAX + 2))
    );
}
