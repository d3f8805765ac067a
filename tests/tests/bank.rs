//! Sixteen writers move money between accounts while the server is killed twenty times: the total is the same at every offset,
//! no balance is below zero, and every transfer that was acknowledged is there, all of it.
//!
//! Each transfer is a transaction over two accounts and a ledger, half of them in one request, half over a session. Many
//! break the CHECK or meet another writer, and must then leave nothing.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater_tests::{Reply, Server};
use serde_json::{Value, json};

const KILLS: u64 = 20;
const WRITERS: u64 = 16;
const ACCOUNTS: u64 = 200;
const EACH: u64 = 100;
const PAST_READS: u64 = 1_000;
/// Transfers that a round waits for: three records each make offsets enough for the reads in the past.
const ROUND_MIN: u64 = 20;

/// Numbers that are the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Transfer {
    id: String,
    source: u64,
    target: u64,
    amount: u64,
}

impl Transfer {
    fn statements(&self) -> [String; 3] {
        let Self { id, source, target, amount } = self;
        [
            format!("UPDATE accounts SET balance = balance - {amount} WHERE id = {source}"),
            format!("UPDATE accounts SET balance = balance + {amount} WHERE id = {target}"),
            format!("INSERT INTO ledger VALUES ('{id}', {source}, {target}, {amount})"),
        ]
    }
}

fn send(server: &Server, sql: &str, session: Option<&str>) -> Option<Reply> {
    let mut request = json!({"sql": sql, "timeout_ms": 60_000});
    if let Some(session) = session {
        request["session"] = session.into();
    }
    server.try_post("/v1/sql", "application/json", request.to_string().as_bytes())
}

/// Whether it was done; refusals must be those that a transfer can meet. `None`: the connection broke, nobody knows.
fn done(reply: &Reply, transfer: &Transfer) -> bool {
    if reply.status == 200 {
        return true;
    }
    let (_, code, _, message) = reply.error();
    assert!(["40001", "23514"].contains(&code.as_str()), "{transfer:?}: {code} {message}");
    false
}

fn in_one_request(server: &Server, transfer: &Transfer) -> Option<bool> {
    let sql = format!("BEGIN; {}; COMMIT", transfer.statements().join("; "));
    send(server, &sql, None).map(|reply| done(&reply, transfer))
}

fn over_a_session(server: &Server, session: &str, transfer: &Transfer) -> Option<bool> {
    assert_eq!(send(server, "BEGIN", Some(session))?.status, 200);
    for statement in transfer.statements() {
        if !done(&send(server, &statement, Some(session))?, transfer) {
            assert_eq!(send(server, "ROLLBACK", Some(session))?.status, 200);
            return Some(false);
        }
    }
    send(server, "COMMIT", Some(session)).map(|reply| done(&reply, transfer))
}

/// Transfers until the connection breaks; gives those that were acknowledged.
fn write(server: &Server, round: u64, writer: u64, acknowledged: &AtomicU64) -> Vec<Transfer> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(round * WRITERS + writer + 1));
    let mut sure = Vec::new();
    let session = match writer % 2 {
        0 => None,
        _ => match server.try_post("/v1/sessions", "application/json", b"") {
            Some(reply) => Some(reply.json()["session"].as_str().unwrap().to_owned()),
            None => return sure,
        },
    };
    for n in 0.. {
        let source = random.below(ACCOUNTS);
        let target = (source + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
        let transfer = Transfer { id: format!("{round}-{writer}-{n}"), source, target, amount: 1 + random.below(EACH * 2) };
        let outcome = match &session {
            None => in_one_request(server, &transfer),
            Some(session) => over_a_session(server, session, &transfer),
        };
        match outcome {
            None => break,
            Some(true) => {
                acknowledged.fetch_add(1, Ordering::Relaxed);
                sure.push(transfer);
            }
            Some(false) => {}
        }
    }
    sure
}

/// The ledger by id, and that the balances are what it makes of them.
fn ledger(server: &Server) -> HashMap<String, Transfer> {
    let number = |value: &Value| value.as_u64().unwrap();
    // At one cut: both tables share a partition.
    let answer = server.sql("BEGIN; SELECT id, balance FROM accounts; SELECT id, source, target, amount FROM ledger; COMMIT");
    let rows = |at: usize| answer["results"][at]["rows"].as_array().unwrap().clone();
    let mut balances: HashMap<u64, i64> = (0..ACCOUNTS).map(|id| (id, i64::try_from(EACH).unwrap())).collect();
    let mut found = HashMap::new();
    for row in rows(2) {
        let id = row[0].as_str().unwrap().to_owned();
        let transfer = Transfer { id: id.clone(), source: number(&row[1]), target: number(&row[2]), amount: number(&row[3]) };
        *balances.get_mut(&transfer.source).unwrap() -= i64::try_from(transfer.amount).unwrap();
        *balances.get_mut(&transfer.target).unwrap() += i64::try_from(transfer.amount).unwrap();
        found.insert(id, transfer);
    }
    let there: HashMap<u64, i64> = rows(1).iter().map(|row| (number(&row[0]), row[1].as_i64().unwrap())).collect();
    assert_eq!(there, balances, "the balances are what the ledger makes of them");
    assert!(there.values().all(|balance| *balance >= 0), "{there:?}");
    found
}

fn last_offset(server: &Server) -> u64 {
    server.get("/v1/streams/_tables").json()["partitions"][0]["committed"].as_u64().unwrap() - 1
}

#[test]
fn transfers_survive_twenty_kills() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    let _ = server.sql(
        "CREATE TABLE accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL CHECK (balance >= 0));
         CREATE TABLE ledger (id TEXT PRIMARY KEY, source BIGINT NOT NULL REFERENCES accounts, target BIGINT NOT NULL REFERENCES accounts,
                              amount BIGINT NOT NULL CHECK (amount > 0))",
    );
    let values: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id}, {EACH})")).collect();
    let _ = server.sql(&format!("INSERT INTO accounts VALUES {}", values.join(", ")));
    let first = last_offset(&server);
    let mut acknowledged: Vec<Transfer> = Vec::new();
    for round in 0..KILLS {
        let count = AtomicU64::new(0);
        let pause = Duration::from_millis(200 + round * 67 % 500);
        let sure = std::thread::scope(|scope| {
            let (server, count) = (&server, &count);
            let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(server, round, writer, count))).collect();
            let begun = Instant::now();
            while begun.elapsed() < pause || count.load(Ordering::Relaxed) < ROUND_MIN {
                std::thread::sleep(Duration::from_millis(2));
            }
            // Sends the signal without waiting, so that the writers see the connections break.
            let pid = server.pid().to_string();
            assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        acknowledged.extend(sure);
        server.kill();
        server = Server::start(data.path());
        // Everything that is in the log is shown, not only what the views had applied before.
        let position = format!("_tables/0@{}", last_offset(&server));
        assert_eq!(server.rows_at("SELECT count(*) FROM accounts", &position), [json!([ACCOUNTS])]);
        let _ = server.rows_at("SELECT count(*) FROM ledger", &position);
        let there = ledger(&server);
        for transfer in &acknowledged {
            assert_eq!(there.get(&transfer.id), Some(transfer), "round {round}: an acknowledged transfer is there");
        }
    }
    let last = last_offset(&server);
    assert!(last - first >= PAST_READS, "offsets {first} to {last} are enough to read at");
    let offsets: Vec<u64> = (0..PAST_READS).map(|n| first + (last - first) * n / (PAST_READS - 1)).collect();
    for offsets in offsets.chunks(100) {
        let sql: Vec<String> = offsets
            .iter()
            .map(|offset| {
                format!("SELECT sum(balance), min(balance) >= 0, count(*) FROM accounts FOR SYSTEM_TIME AS OF OFFSET {offset}")
            })
            .collect();
        let answer = server.sql(&sql.join(";"));
        for (offset, result) in offsets.iter().zip(answer["results"].as_array().unwrap()) {
            assert_eq!(result["rows"], json!([[ACCOUNTS * EACH, true, ACCOUNTS]]), "offset {offset}");
        }
    }
    // The change feed over all of it, added up, is what there is now.
    let mut balances: HashMap<u64, i64> = HashMap::new();
    let mut from = 0;
    while from <= last {
        let page = server.get(&format!("/v1/tables/accounts/changes?from={from}&limit=10000")).json();
        for change in page["changes"].as_array().unwrap() {
            let id = change["new"]["id"].as_u64().unwrap();
            assert_eq!(balances.get(&id).copied(), change["old"]["balance"].as_i64(), "{change}");
            balances.insert(id, change["new"]["balance"].as_i64().unwrap());
        }
        from = page["next_offset"].as_u64().unwrap();
    }
    let now: HashMap<u64, i64> = server
        .rows("SELECT id, balance FROM accounts")
        .iter()
        .map(|row| (row[0].as_u64().unwrap(), row[1].as_i64().unwrap()))
        .collect();
    assert_eq!(balances, now);
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}
