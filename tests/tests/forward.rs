//! The forwarder between real servers and against endpoints that misbehave: order, no gaps, and no duplicates but the documented.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use headwater_tests::{Server, binary};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Small files, so that streams of several partitions take little room.
const SMALL: [(&str, &str); 1] = [("HEADWATER_LOG_SEGMENT_BYTES", "16MiB")];

/// A running `headwater forward`. Killed when dropped.
struct Forwarder {
    child: Child,
    talk: Arc<Mutex<String>>,
}

impl Forwarder {
    fn start(source: &Server, to: &str, more: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .args(["forward", "--url", &source.url, "--to", to, "--cursor", "spool"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let talk = Arc::new(Mutex::new(String::new()));
        let (collected, mut stderr) = (Arc::clone(&talk), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut part) {
                collected.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..read]));
            }
        });
        Self { child, talk }
    }

    fn talk(&self) -> String {
        self.talk.lock().unwrap().clone()
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, for a minute at most; gives the exit code.
    fn ended(&mut self) -> Option<i32> {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < give_up, "it does not end: {}", self.talk());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end and that it said `part`; gives the exit code.
    fn ended_saying(&mut self, part: &str) -> Option<i32> {
        let code = self.ended();
        let give_up = Instant::now() + Duration::from_secs(10);
        // The last words may still be on their way through the pipe.
        while !self.talk().contains(part) {
            assert!(Instant::now() < give_up, "{part:?} in {}", self.talk());
            std::thread::sleep(Duration::from_millis(10));
        }
        code
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All records of a partition, each as the text it has but for its offset.
fn records(server: &Server, stream: &str, partition: u64) -> Vec<String> {
    let (mut all, mut offset) = (Vec::new(), 0);
    loop {
        let path = format!("/v1/streams/{stream}/partitions/{partition}/records?offset={offset}&limit=10000&max_bytes=16000000");
        let reply = server.get(&path);
        assert_eq!(reply.status, 200, "{}", reply.body);
        let page: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&reply.body).unwrap();
        let found: Vec<Box<RawValue>> = serde_json::from_str(page["records"].get()).unwrap();
        if found.is_empty() {
            return all;
        }
        for record in found {
            let (number, rest) = record.get().strip_prefix("{\"offset\":").unwrap().split_once(',').unwrap();
            assert_eq!(number, offset.to_string(), "offsets are dense");
            all.push(rest.to_owned());
            offset += 1;
        }
    }
}

/// How far a cursor is, over all partitions.
fn forwarded(source: &Server, stream: &str) -> u64 {
    let list = source.get(&format!("/v1/cursors?stream={stream}")).json();
    list["cursors"].as_array().unwrap().iter().map(|cursor| cursor["offset"].as_u64().unwrap()).sum()
}

/// A generator whose seed tells everything.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn base64(&mut self, bytes_max: u64) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let groups = 1 + self.below(bytes_max / 3);
        (0..groups * 4).map(|_| char::from(DIGITS[usize::try_from(self.below(64)).unwrap()])).collect()
    }
}

/// One record of everything a record may be; `n` makes it unlike all others.
fn record(n: u64, random: &mut Random) -> String {
    let key = match n % 5 {
        0 => String::new(),
        1 => format!(r#""key":"k{} \"é\u0007","#, n % 100),
        2 => format!(r#""key_base64":"{}","#, random.base64(30)),
        3 => format!(r#""key":{},"#, n % 1_000),
        _ => r#""key":null,"#.to_owned(),
    };
    let value = match random.below(7) {
        0 => r#""value":null"#.to_owned(),
        1 => format!(r#""value_base64":"{}""#, random.base64(400)),
        // What is JSON but would not come back as these bytes: null, and white space around a number.
        2 => r#""value_base64":"bnVsbA==""#.to_owned(),
        3 => r#""value_base64":"IDEg""#.to_owned(),
        4 => format!(r#""value":"{} \u2028 \ud800""#, "x".repeat(usize::try_from(random.below(300)).unwrap())),
        _ => format!("\"value\":{{ \"n\" : {n}.50 ,\n \"deep\":[[[{{}}]]], \"é\":1e400}}"),
    };
    let headers = format!(r#"{{"n":"{n}","bytes":{{"base64":"/w=="}},"none":null,"list":["a",null,{{"base64":"gA=="}}]}}"#);
    let timestamp = 1_600_000_000_000 + i64::try_from(n).unwrap() * 7 * if n.is_multiple_of(50) { -400_000_000 } else { 1 };
    format!(r#"{{"partition":{},{key}{value},"headers":{headers},"timestamp":{timestamp}}}"#, n % u64::from(PARTITIONS))
}

fn append(server: &Server, range: std::ops::Range<u64>, random: &mut Random) {
    let mut next = range.start;
    while next < range.end {
        let until = (next + 1_000).min(range.end);
        let records: Vec<String> = (next..until).map(|n| record(n, random)).collect();
        let body = format!(r#"{{"records":[{}]}}"#, records.join(","));
        let reply = server.post("/v1/streams/spool/records", "application/json", body.as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.body);
        next = until;
    }
}

const RECORDS: u64 = 20_000;
const PARTITIONS: u32 = 3;
const KILLS: u64 = 20;
const BATCH_BYTES: usize = 16 << 10;
const SEED: u64 = 0x5eed_2718_2818_2845;

/// The three processes, and what is needed to have them again.
struct Scene {
    source: Server,
    target: Server,
    forwarder: Forwarder,
    folders: [tempfile::TempDir; 2],
}

impl Scene {
    fn new() -> Self {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (source, target) = (Server::start_with(folders[0].path(), &SMALL), Server::start_with(folders[1].path(), &SMALL));
        let _ = source.sql(&format!("CREATE STREAM spool WITH (partitions = {PARTITIONS})"));
        // One more than needed.
        let _ = target.sql(&format!("CREATE STREAM copy WITH (partitions = {})", PARTITIONS + 1));
        let forwarder = Self::forward(&source, &target);
        Self { source, target, forwarder, folders }
    }

    fn forward(source: &Server, target: &Server) -> Forwarder {
        let to = format!("{}/v1/streams/copy", target.url);
        Forwarder::start(source, &to, &["--stream", "spool", "--batch-bytes", &BATCH_BYTES.to_string()])
    }

    fn kill_and_start_again(self, victim: u64) -> Self {
        let Self { mut source, mut target, mut forwarder, folders } = self;
        let again = |server: Server, data: &Path| server.start_again(data, &SMALL);
        match victim {
            0 => {
                forwarder.child.kill().unwrap();
                forwarder.child.wait().unwrap();
                forwarder = Self::forward(&source, &target);
            }
            1 => {
                source.kill();
                source = again(source, folders[0].path());
            }
            _ => {
                target.kill();
                target = again(target, folders[1].path());
            }
        }
        Self { source, target, forwarder, folders }
    }

    /// Waits until so many records are forwarded.
    fn until(&mut self, records: u64) {
        let Self { source, forwarder, .. } = self;
        let give_up = Instant::now() + Duration::from_secs(120);
        while forwarded(source, "spool") < records {
            assert!(forwarder.is_running(), "the forwarder ended: {}", forwarder.talk());
            assert!(Instant::now() < give_up, "stuck before {records}: {}\n{}", forwarder.talk(), source.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn every_record_arrives_in_order_whatever_is_killed() {
    let mut random = Random(SEED);
    let mut scene = Scene::new();
    append(&scene.source, 0..RECORDS / 2, &mut random);
    let mut killed = [0; 3];
    for kill in 0..KILLS {
        // Some way further each time, and never beyond what there is.
        let whole = RECORDS * (kill + 1) / (KILLS + 2);
        scene.until(whole - random.below(RECORDS / (KILLS + 2)));
        if kill == KILLS / 2 - 1 {
            append(&scene.source, RECORDS / 2..RECORDS, &mut random);
        }
        let victim = if kill < 3 { kill } else { random.below(3) };
        killed[usize::try_from(victim).unwrap()] += 1;
        scene = scene.kill_and_start_again(victim);
    }
    scene.until(RECORDS);
    scene.forwarder.signal("-TERM");
    assert_eq!(scene.forwarder.ended(), Some(0), "{}", scene.forwarder.talk());
    let mut repeats = 0;
    for partition in 0..u64::from(PARTITIONS) {
        let expected = records(&scene.source, "spool", partition);
        let places: BTreeMap<&str, usize> = expected.iter().enumerate().map(|(at, record)| (record.as_str(), at)).collect();
        assert_eq!(places.len(), expected.len(), "no two records are alike");
        let mut at = 0;
        for found in records(&scene.target, "copy", partition) {
            let place = *places.get(found.as_str()).unwrap_or_else(|| panic!("seed {SEED}: never sent like this: {found}"));
            assert!(place <= at, "seed {SEED}: partition {partition} has a gap from {at} to {place}");
            if place < at {
                let bytes: usize = expected[place..at].iter().map(String::len).sum();
                assert!(bytes <= BATCH_BYTES, "seed {SEED}: {bytes} bytes were sent again at once");
                repeats += 1;
            }
            at = place + 1;
        }
        assert_eq!(at, expected.len(), "seed {SEED}: partition {partition} is whole");
    }
    assert!(records(&scene.target, "copy", u64::from(PARTITIONS)).is_empty());
    assert!(repeats <= KILLS * u64::from(PARTITIONS), "seed {SEED}: {repeats} batches were sent again after {KILLS} kills");
    for (name, log) in [("source", scene.source.log()), ("target", scene.target.log())] {
        assert!(!log.contains("ERROR"), "{name}: {log}");
    }
    assert!(killed.iter().all(|times| *times > 0), "{killed:?}");
}

/// What came to an [`Endpoint`].
struct Delivery {
    content_type: String,
    body: String,
    reply: Sender<Option<&'static str>>,
}

impl Delivery {
    /// Answers with a status line and header lines; `None` hangs up.
    fn answer(self, head: Option<&'static str>) {
        self.reply.send(head).unwrap();
    }

    fn offsets(&self) -> Vec<u64> {
        self.body.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["offset"].as_u64().unwrap()).collect()
    }
}

/// An HTTP server that does with each request what the test says.
struct Endpoint {
    url: String,
    deliveries: Receiver<Delivery>,
}

impl Endpoint {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/in", listener.local_addr().unwrap());
        let (tell, deliveries) = channel();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let tell = tell.clone();
                std::thread::spawn(move || Self::serve(socket.unwrap(), &tell));
            }
        });
        Self { url, deliveries }
    }

    /// One request a connection. A client that is killed meanwhile is the test's doing.
    fn serve(mut socket: TcpStream, tell: &Sender<Delivery>) -> Option<()> {
        let mut input = BufReader::new(socket.try_clone().ok()?);
        let (mut length, mut content_type) = (0, String::new());
        loop {
            let mut line = String::new();
            input.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(": ") else {
                if line.trim().is_empty() {
                    break;
                }
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "content-type" => value.clone_into(&mut content_type),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body).ok()?;
        let (reply, answer) = channel();
        tell.send(Delivery { content_type, body: String::from_utf8(body).unwrap(), reply }).ok()?;
        let head = answer.recv().ok()??;
        write!(socket, "HTTP/1.1 {head}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok()
    }

    fn next(&self) -> Delivery {
        self.deliveries.recv_timeout(Duration::from_secs(60)).expect("a delivery within a minute")
    }
}

/// A server with the stream `s` of one partition, which has the numbers 0 to 99.
fn numbers() -> (Server, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with(data.path(), &SMALL);
    let _ = server.sql("CREATE STREAM s");
    let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
    let _ = server.append("s", &lines);
    (server, data)
}

#[test]
fn an_endpoint_gets_what_it_did_not_confirm_again() {
    let (source, _data) = numbers();
    let endpoint = Endpoint::start();
    let mut forwarder = Forwarder::start(&source, &endpoint.url, &["--stream", "s", "--batch-bytes", "2KiB", "--once"]);
    let first = endpoint.next();
    assert_eq!(first.content_type, "application/x-ndjson");
    let line = first.body.lines().next().unwrap();
    let (start, rest) = line.split_once(r#""timestamp":"#).unwrap();
    let (timestamp, rest) = rest.split_once(',').unwrap();
    assert_eq!((start, rest), (r#"{"partition":0,"offset":0,"#, r#""key":null,"value":0,"headers":{}}"#));
    assert!(timestamp.parse::<u64>().is_ok());
    let batch = first.offsets();
    assert_eq!(batch, (0..batch.len() as u64).collect::<Vec<_>>());
    first.answer(Some("502 Oops"));
    for refusal in
        [Some("500 Oops"), Some("503 Busy\r\nretry-after: 1"), None, Some("429 Slow down\r\nretry-after: 0"), Some("504 Late")]
    {
        let delivery = endpoint.next();
        assert_eq!(delivery.offsets(), batch, "the same again, and nothing else meanwhile");
        assert_eq!(source.get("/v1/cursors/spool/s/0").json()["offset"], 0, "nothing was confirmed");
        delivery.answer(refusal);
    }
    let mut next = 0;
    while next < 100 {
        let delivery = endpoint.next();
        let offsets = delivery.offsets();
        assert_eq!(offsets[0], next, "in order");
        next = offsets.last().unwrap() + 1;
        delivery.answer(Some("202 Taken"));
    }
    assert_eq!(forwarder.ended_saying("forwarded 100 records of s"), Some(0));
    assert!(forwarder.talk().contains("trying again") && forwarder.talk().contains("goes on after"), "{}", forwarder.talk());
    assert_eq!(source.get("/v1/cursors/spool/s/0").json()["offset"], 100);
}

#[test]
fn a_refusal_ends_it_and_names_the_records() {
    let (source, _data) = numbers();
    let endpoint = Endpoint::start();
    let mut forwarder = Forwarder::start(&source, &endpoint.url, &["--stream", "s", "--batch-bytes", "2KiB"]);
    let delivery = endpoint.next();
    let confirmed = delivery.offsets().len();
    delivery.answer(Some("200 OK"));
    let delivery = endpoint.next();
    let (first, last) = (delivery.offsets()[0], *delivery.offsets().last().unwrap());
    delivery.answer(Some("422 Not like this"));
    let says = format!("the target refused the records {first} to {last} of s/0");
    assert_eq!(forwarder.ended_saying(&says), Some(1));
    assert_eq!(source.get("/v1/cursors/spool/s/0").json()["offset"], confirmed);
    // A redirect is no confirmation.
    let mut forwarder = Forwarder::start(&source, &endpoint.url, &["--stream", "s"]);
    endpoint.next().answer(Some("302 Elsewhere\r\nlocation: /other"));
    assert_eq!(forwarder.ended_saying("302"), Some(1));
}

#[test]
fn the_slower_of_two_forwarders_stops() {
    let (source, _data) = numbers();
    let endpoint = Endpoint::start();
    let mut forwarder = Forwarder::start(&source, &endpoint.url, &["--stream", "s", "--batch-bytes", "2KiB"]);
    let moves = |from: usize, to: u64| {
        let body = json!({"offset": to, "expect": from}).to_string();
        assert_eq!(source.put("/v1/cursors/spool/s/0", &body).status, 200);
    };
    let delivery = endpoint.next();
    let first = delivery.offsets().len();
    delivery.answer(Some("200 OK"));
    let delivery = endpoint.next();
    // What another one does that was faster.
    moves(first, 70);
    delivery.answer(Some("200 OK"));
    let says = format!("was moved to 70 while this forwarder had it at {first}: someone else uses it");
    assert_eq!(forwarder.ended_saying(&says), Some(1));
    assert_eq!(source.get("/v1/cursors/spool/s/0").json()["offset"], 70);
    // The last request of one that was killed may come late: the next one goes on behind it, but only once.
    let mut forwarder = Forwarder::start(&source, &endpoint.url, &["--stream", "s", "--batch-bytes", "1KiB"]);
    let delivery = endpoint.next();
    assert_eq!(delivery.offsets()[0], 70);
    moves(70, 75);
    delivery.answer(Some("200 OK"));
    let delivery = endpoint.next();
    assert_eq!(delivery.offsets()[0], 75);
    moves(75, 76);
    delivery.answer(Some("200 OK"));
    assert_eq!(forwarder.ended_saying("was moved to 76 while this forwarder had it at 75"), Some(1));
    // A cursor that is gone or was set back is nobody's last request.
    let mut forwarder = Forwarder::start(&source, &endpoint.url, &["--stream", "s", "--batch-bytes", "1KiB"]);
    let delivery = endpoint.next();
    assert_eq!(source.delete("/v1/cursors/spool/s/0").status, 200);
    delivery.answer(Some("200 OK"));
    assert_eq!(forwarder.ended_saying("was deleted while"), Some(1));
}

#[test]
fn a_signal_ends_it_when_the_batch_in_flight_is_confirmed() {
    let (source, _data) = numbers();
    let endpoint = Endpoint::start();
    let mut forwarder = Forwarder::start(&source, &endpoint.url, &["--stream", "s", "--batch-bytes", "1KiB"]);
    let delivery = endpoint.next();
    forwarder.signal("-TERM");
    let mut confirmed = delivery.offsets().len();
    delivery.answer(Some("200 OK"));
    // The signal may be noticed some batches later, but what was begun is finished.
    while forwarder.is_running() {
        if let Ok(delivery) = endpoint.deliveries.recv_timeout(Duration::from_millis(10)) {
            confirmed += delivery.offsets().len();
            delivery.answer(Some("200 OK"));
        }
    }
    assert_eq!(forwarder.ended(), Some(0), "{}", forwarder.talk());
    assert_eq!(source.get("/v1/cursors/spool/s/0").json()["offset"], confirmed);
    // With nothing in flight it does not wait for what may come.
    assert_eq!(source.put("/v1/cursors/spool/s/0", r#"{"offset":100}"#).status, 200);
    let mut forwarder = Forwarder::start(&source, &endpoint.url, &["--stream", "s"]);
    let _ = source.append("s", "100");
    endpoint.next().answer(Some("200 OK"));
    source.until("the cursor to be moved", |source| forwarded(source, "s") == 101);
    forwarder.signal("-INT");
    assert_eq!(forwarder.ended(), Some(0), "{}", forwarder.talk());
    // A target that is down is not waited for either, and unfinished work is not called done.
    let _ = source.append("s", "101");
    let mut forwarder = Forwarder::start(&source, "http://127.0.0.1:1/in", &["--stream", "s", "--once"]);
    source.until("an attempt", |_| forwarder.talk().contains("nothing listens at http://127.0.0.1:1/in"));
    forwarder.signal("-TERM");
    assert_eq!(forwarder.ended_saying("stopped before everything was forwarded"), Some(1));
    assert!(forwarder.talk().contains("the records 101 to 101 are not confirmed"), "{}", forwarder.talk());
    assert_eq!(forwarded(&source, "s"), 101);
}

#[test]
fn more_partitions_than_threads_are_all_followed() {
    const MANY: u64 = 18;
    let data = tempfile::tempdir().unwrap();
    let source = Server::start_with(data.path(), &SMALL);
    let _ = source.sql(&format!("CREATE STREAM s WITH (partitions = {MANY})"));
    let send = |partitions: std::ops::Range<u64>| {
        let records: Vec<Value> = partitions.map(|partition| json!({"value": partition, "partition": partition})).collect();
        let body = json!({ "records": records }).to_string();
        assert_eq!(source.post("/v1/streams/s/records", "application/json", body.as_bytes()).status, 200);
    };
    send(0..MANY);
    let endpoint = Endpoint::start();
    let mut forwarder = Forwarder::start(&source, &endpoint.url, &["--stream", "s"]);
    let take = |count: u64| -> Vec<(u64, u64)> {
        let mut places: Vec<(u64, u64)> = (0..count)
            .map(|_| {
                let delivery = endpoint.next();
                let record: Value = serde_json::from_str(delivery.body.trim_end()).unwrap();
                assert_eq!(record["value"], record["partition"]);
                delivery.answer(Some("200 OK"));
                (record["partition"].as_u64().unwrap(), record["offset"].as_u64().unwrap())
            })
            .collect();
        places.sort_unstable();
        places
    };
    assert_eq!(take(MANY), (0..MANY).map(|partition| (partition, 0)).collect::<Vec<_>>());
    // And what comes when everything was forwarded.
    source.until("all cursors to be moved", |source| forwarded(source, "s") == MANY);
    send(0..MANY);
    assert_eq!(take(MANY), (0..MANY).map(|partition| (partition, 1)).collect::<Vec<_>>());
    forwarder.signal("-TERM");
    assert_eq!(forwarder.ended(), Some(0));
    // Only some of them.
    send(0..MANY);
    let only = ["--stream", "s", "--partition", "3", "--partition", "17", "--once"];
    let mut forwarder = Forwarder::start(&source, &endpoint.url, &only);
    assert_eq!(take(2), [(3, 2), (17, 2)]);
    assert_eq!(forwarder.ended(), Some(0));
}

#[test]
fn what_can_not_work_is_said_at_the_start() {
    let (source, _data) = numbers();
    let _ = source.sql("CREATE STREAM wide WITH (partitions = 2); CREATE STREAM narrow");
    let other = format!("{}/v1/streams/narrow", source.url);
    let elsewhere = format!("{}/v1/streams/nowhere", source.url);
    for (to, more, code, says) in [
        (other.as_str(), vec!["--stream", "wid"], 1, "did you mean \"wide\"?"),
        (&other, vec!["--stream", "wide"], 1, "has 1 partition, 2 are needed"),
        (&elsewhere, vec!["--stream", "wide"], 1, "CREATE STREAM \"nowhere\" WITH (partitions = 2)"),
        (&source.url, vec!["--stream", "wide"], 1, "forwarded to itself"),
        (&source.url, vec!["--stream", "wide", "--target-stream", "narrow", "--partition", "1"], 1, "2 are needed"),
        (&other, vec!["--stream", "wide", "--partition", "2"], 1, "wide has no partition 2, it has 2"),
        (&other, vec!["--stream", "s", "--target-stream", "s"], 1, "leave one of them out"),
        (&other, vec!["--stream", "s", "--cursor", "a b"], 1, "can't be the name of a cursor"),
        ("https://127.0.0.1:1", vec!["--stream", "s"], 1, "https is not spoken here"),
        (&other, vec!["--stream", "s", "--batch-bytes", "9MiB"], 2, "1KiB to 8MiB"),
        (&other, vec![], 2, "--stream"),
    ] {
        // Of a flag that is given twice the last one would not be taken: these tests name their cursor themselves.
        let own = if more.contains(&"--cursor") { vec![] } else { vec!["--cursor", "spool"] };
        let arguments = [vec!["forward", "--url", &source.url, "--to", to], own, more].concat();
        let output = headwater_tests::headwater(&arguments);
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {talk}");
        assert!(talk.contains(says), "{says:?} in {talk}");
    }
    assert_eq!(source.get("/v1/cursors").json()["total"], 0, "nothing was begun");
    // One partition of the wide stream fits, and an empty one is done at once.
    let wide =
        ["forward", "--url", &source.url, "--to", &other, "--cursor", "spool", "--stream", "wide", "--partition", "0", "--once"];
    let output = headwater_tests::headwater(&wide);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(source.get("/v1/cursors").json()["total"], 1);
}
