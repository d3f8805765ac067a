//! Transactions: what they see, how they end, who wins.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Fixture;
use serde_json::json;

fn accounts() -> Fixture {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE accounts (id BIGINT PRIMARY KEY, owner TEXT UNIQUE, balance BIGINT CHECK (balance >= 0))");
    fixture.run("INSERT INTO accounts VALUES (1, 'ann', 100), (2, 'bob', 50), (3, 'cid', 0)");
    fixture
}

fn session(fixture: &Fixture) -> String {
    fixture.database.sessions().open().unwrap()
}

fn code(fixture: &Fixture, session: &str, sql: &str) -> &'static str {
    fixture.within(session, sql).expect_err(sql).code()
}

const ALL: &str = "SELECT id, balance FROM accounts ORDER BY id";

#[test]
fn a_transaction_sees_its_own_rows_and_others_see_them_after_commit() {
    let fixture = accounts();
    let own = session(&fixture);
    let run = |sql: &str| fixture.within(&own, sql).unwrap();
    assert_eq!(run("BEGIN"), [json!("BEGIN")]);
    assert_eq!(run("UPDATE accounts SET balance = balance - 30 WHERE id = 1"), [json!(1)]);
    run("INSERT INTO accounts VALUES (4, 'dan', 30)");
    run("DELETE FROM accounts WHERE id = 3");
    assert_eq!(run(ALL), [json!([1, 70]), json!([2, 50]), json!([4, 30])]);
    assert_eq!(run("SELECT balance FROM accounts WHERE id = 4"), [json!([30])], "by key");
    assert_eq!(run("SELECT id FROM accounts WHERE owner = 'dan'"), [json!([4])], "by index");
    assert_eq!(run("SELECT sum(balance), count(*) FROM accounts"), [json!([150, 3])]);
    assert_eq!(fixture.rows(ALL), [json!([1, 100]), json!([2, 50]), json!([3, 0])]);
    // Its own rows count for constraints as well.
    assert_eq!(code(&fixture, &own, "INSERT INTO accounts VALUES (5, 'dan', 1)"), "23505");
    assert_eq!(code(&fixture, &own, "SELECT 1"), "25P02");
    assert_eq!(run("COMMIT"), [json!("ROLLBACK")], "a failed transaction can't be committed");
    assert_eq!(fixture.rows(ALL), [json!([1, 100]), json!([2, 50]), json!([3, 0])]);

    run("BEGIN");
    run("UPDATE accounts SET balance = balance - 30 WHERE id = 1");
    run("UPDATE accounts SET balance = balance + 30 WHERE id = 2");
    assert_eq!(run("COMMIT"), [json!("COMMIT")]);
    assert_eq!(fixture.rows(ALL), [json!([1, 70]), json!([2, 80]), json!([3, 0])]);
    let fixture = fixture.reopen(false);
    assert_eq!(fixture.rows(ALL), [json!([1, 70]), json!([2, 80]), json!([3, 0])]);
}

#[test]
fn savepoints_take_back_what_came_after_them() {
    let fixture = accounts();
    let own = session(&fixture);
    let run = |sql: &str| fixture.within(&own, sql).unwrap();
    run("BEGIN");
    run("UPDATE accounts SET balance = 1 WHERE id = 1");
    run("SAVEPOINT a");
    run("DELETE FROM accounts");
    assert_eq!(run("SELECT count(*) FROM accounts"), [json!([0])]);
    assert_eq!(code(&fixture, &own, "INSERT INTO accounts VALUES (1, 'x', -1)"), "23514");
    assert_eq!(code(&fixture, &own, "SAVEPOINT b"), "25P02");
    run("ROLLBACK TO a");
    assert_eq!(run(ALL), [json!([1, 1]), json!([2, 50]), json!([3, 0])]);
    run("ROLLBACK TO SAVEPOINT a");
    run("RELEASE SAVEPOINT a");
    assert_eq!(code(&fixture, &own, "ROLLBACK TO a"), "3B001");
    run("COMMIT");
    assert_eq!(fixture.rows(ALL), [json!([1, 1]), json!([2, 50]), json!([3, 0])]);
    assert_eq!(code(&fixture, &own, "COMMIT"), "25P01");
    assert_eq!(code(&fixture, &own, "SAVEPOINT a"), "25P01");
}

#[test]
fn the_first_committer_wins() {
    let fixture = accounts();
    let (first, second) = (session(&fixture), session(&fixture));
    for own in [&first, &second] {
        fixture.within(own, "BEGIN").unwrap();
        fixture.within(own, "UPDATE accounts SET balance = balance + 1 WHERE id = 2").unwrap();
    }
    fixture.within(&second, "COMMIT").unwrap();
    let error = fixture.within(&first, "COMMIT").unwrap_err();
    assert_eq!((error.code(), error.kind()), ("40001", logcore::ErrorKind::Conflict), "{error}");
    assert_eq!(fixture.rows("SELECT balance FROM accounts WHERE id = 2"), [json!([51])]);

    // Equal values of a unique column are a conflict between rows of different keys.
    for (own, id) in [(&first, 10), (&second, 11)] {
        fixture.within(own, "BEGIN").unwrap();
        fixture.within(own, &format!("INSERT INTO accounts VALUES ({id}, 'eve', 0)")).unwrap();
    }
    fixture.within(&first, "COMMIT").unwrap();
    assert_eq!(code(&fixture, &second, "COMMIT"), "40001");
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let fixture = accounts();
    let own = session(&fixture);
    fixture.within(&own, "BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    let before = fixture.within(&own, ALL).unwrap();
    fixture.run("UPDATE accounts SET balance = balance + 1000");
    assert_eq!(fixture.within(&own, ALL).unwrap(), before);
    assert_eq!(fixture.within(&own, "SELECT balance FROM accounts WHERE id = 1").unwrap(), [json!([100])]);
    fixture.within(&own, "COMMIT").unwrap();
    assert_ne!(fixture.rows(ALL), before);
}

/// Two doctors on call, each goes home because the other is there.
#[test]
fn write_skew_is_refused_under_serializable_only() {
    for (level, refused) in [("REPEATABLE READ", false), ("SERIALIZABLE", true)] {
        let fixture = accounts();
        let (first, second) = (session(&fixture), session(&fixture));
        for (own, id) in [(&first, 1), (&second, 2)] {
            fixture.within(own, &format!("BEGIN ISOLATION LEVEL {level}")).unwrap();
            let on_call = fixture.within(own, "SELECT count(*) FROM accounts WHERE balance > 0").unwrap();
            assert_eq!(on_call, [json!([2])]);
            fixture.within(own, &format!("UPDATE accounts SET balance = 0 WHERE id = {id}")).unwrap();
        }
        fixture.within(&first, "COMMIT").unwrap();
        let ended = fixture.within(&second, "COMMIT");
        assert_eq!(ended.err().map(|error| error.code()), refused.then_some("40001"), "{level}");
        let left = fixture.rows("SELECT count(*) FROM accounts WHERE balance > 0");
        assert_eq!(left, [json!([if refused { 1 } else { 0 }])]);
    }
}

/// Rows read by key don't stand in the way of rows that were not.
#[test]
fn serializable_reads_by_key_rest_on_those_keys_only() {
    let fixture = accounts();
    let own = session(&fixture);
    fixture.within(&own, "BEGIN ISOLATION LEVEL SERIALIZABLE").unwrap();
    fixture.within(&own, "SELECT balance FROM accounts WHERE id = 1").unwrap();
    fixture.within(&own, "UPDATE accounts SET balance = 7 WHERE id = 2").unwrap();
    fixture.run("UPDATE accounts SET balance = 9 WHERE id = 3");
    fixture.within(&own, "COMMIT").unwrap();
    assert_eq!(fixture.rows(ALL), [json!([1, 100]), json!([2, 7]), json!([3, 9])]);
}

#[test]
fn a_reference_and_the_removal_of_what_it_names_can_not_both_be() {
    let fixture = accounts();
    fixture.run("CREATE TABLE cards (id BIGINT PRIMARY KEY, account BIGINT REFERENCES accounts)");
    for order in [true, false] {
        let (child, parent) = (session(&fixture), session(&fixture));
        fixture.within(&child, "BEGIN").unwrap();
        fixture.within(&child, "INSERT INTO cards VALUES (1, 3)").unwrap();
        fixture.within(&parent, "BEGIN").unwrap();
        fixture.within(&parent, "DELETE FROM accounts WHERE id = 3").unwrap();
        let (first, second) = if order { (&child, &parent) } else { (&parent, &child) };
        fixture.within(first, "COMMIT").unwrap();
        assert_eq!(code(&fixture, second, "COMMIT"), "40001");
        let dangling = fixture.rows("SELECT count(*) FROM cards WHERE account NOT IN (SELECT id FROM accounts)");
        assert_eq!(dangling, [json!([0])]);
        fixture.run("DELETE FROM cards");
    }
}

#[test]
fn one_request_may_hold_a_transaction() {
    let fixture = accounts();
    fixture.run("BEGIN; UPDATE accounts SET balance = 1; INSERT INTO accounts VALUES (9, 'z', 9); COMMIT");
    assert_eq!(fixture.rows("SELECT count(*), sum(balance) FROM accounts"), [json!([4, 12])]);
    fixture.run("BEGIN; DELETE FROM accounts; ROLLBACK");
    assert_eq!(fixture.rows("SELECT count(*) FROM accounts"), [json!([4])]);
    let error = fixture.error("BEGIN; DELETE FROM accounts");
    assert_eq!(error.code(), "25001", "{error}");
    let error = fixture.error("BEGIN; UPDATE accounts SET balance = -1; COMMIT");
    assert_eq!(error.code(), "23514", "{error}");
    assert_eq!(fixture.rows("SELECT count(*), sum(balance) FROM accounts"), [json!([4, 12])]);
    assert_eq!(fixture.error("BEGIN; CREATE TABLE x (id BIGINT PRIMARY KEY); COMMIT").code(), "25001");
}

/// A transaction in one request that loses is run again as a whole: nobody has seen anything of it.
#[test]
fn whole_transactions_in_one_request_get_through_however_many_want_the_same_row() {
    const THREADS: usize = 8;
    const TIMES: usize = 25;
    let fixture = accounts();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let fixture = &fixture;
            scope.spawn(move || {
                for n in 0..TIMES {
                    // Two rows in either order, and a row of its own.
                    let (first, second) = if (thread + n) % 2 == 0 { (1, 2) } else { (2, 1) };
                    let own = 1_000 + thread * TIMES + n;
                    fixture.run(&format!(
                        "BEGIN; UPDATE accounts SET balance = balance + 1 WHERE id = {first};
                         UPDATE accounts SET balance = (SELECT balance FROM accounts WHERE id = {second}) + 1 WHERE id = {second};
                         INSERT INTO accounts VALUES ({own}, 'own {own}', 0); COMMIT"
                    ));
                }
            });
        }
    });
    let added = THREADS * TIMES;
    assert_eq!(fixture.rows("SELECT count(*) FROM accounts"), [json!([3 + added])]);
    assert_eq!(fixture.rows("SELECT sum(balance) FROM accounts WHERE id IN (1, 2)"), [json!([150 + 2 * added])]);
}

#[test]
fn sessions_are_their_own_and_end() {
    let fixture = accounts();
    let own = session(&fixture);
    fixture.within(&own, "BEGIN").unwrap();
    fixture.within(&own, "DELETE FROM accounts").unwrap();
    assert_eq!(code(&fixture, &own, "BEGIN"), "25001");
    fixture.database.sessions().close(&own).unwrap();
    assert_eq!(fixture.within(&own, "COMMIT").unwrap_err().kind(), logcore::ErrorKind::NotFound);
    assert_eq!(fixture.rows("SELECT count(*) FROM accounts"), [json!([3])]);
    assert!(fixture.database.sessions().close(&own).is_err());
}

/// Transfers from sixteen threads: what there is stays the same at every offset, and nobody's balance is below zero.
#[test]
fn transfers_keep_the_total_at_every_offset() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE accounts (id BIGINT PRIMARY KEY, balance BIGINT CHECK (balance >= 0))");
    let values: Vec<String> = (0..20).map(|n| format!("({n}, 100)")).collect();
    let (_, first) = fixture.run(&format!("INSERT INTO accounts VALUES {}", values.join(", ")));
    let done = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..16_u64 {
            let (fixture, done) = (&fixture, &done);
            scope.spawn(move || {
                let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(thread + 1);
                for _ in 0..12 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let (from, to, amount) = (state % 20, (state >> 8) % 20, (state >> 16) % 150);
                    let sql = format!(
                        "BEGIN; UPDATE accounts SET balance = balance - {amount} WHERE id = {from};
                         UPDATE accounts SET balance = balance + {amount} WHERE id = {to}; COMMIT"
                    );
                    match fixture.request(&sql, vec![], "") {
                        Ok(_) => drop(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed)),
                        Err(error) => assert!(["40001", "23514"].contains(&error.code()), "{error}"),
                    }
                }
            });
        }
    });
    assert!(done.into_inner() > 20, "some got through");
    let offset_of = |position: &str| position.rsplit('@').next().unwrap().parse::<u64>().unwrap();
    let (_, last) = fixture.run("UPDATE accounts SET balance = balance WHERE id = 0");
    // Also at offsets inside a transaction's batch.
    for offset in offset_of(&first)..=offset_of(&last) {
        let sql = format!("SELECT sum(balance), min(balance) >= 0 FROM accounts FOR SYSTEM_TIME AS OF OFFSET {offset}");
        assert_eq!(fixture.rows(&sql), [json!([2000, true])], "offset {offset}");
    }
    assert_eq!(fixture.rows("SELECT sum(balance) FROM accounts"), [json!([2000])]);
}
