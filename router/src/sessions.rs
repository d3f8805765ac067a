//! Sessions: what a client has between its requests: a transaction, if it began one, and the statements it has prepared.
//!
//! A request without a session is one by itself: `BEGIN; ...; COMMIT` in one text works as well.
//!
//! # Concurrency
//! A session runs one statement at a time; the next request waits for its turn until its deadline.
//!
//! # Invariants
//! - A statement that was cut off halfway, its client gone, leaves its transaction failed: COMMIT can't make half of it so.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use datafusion::sql::sqlparser::ast::{Expr, Statement as Ast, TransactionIsolationLevel, TransactionMode};
use logcore::ErrorKind;
use logcore::sys::clock;
use tokio::sync::OwnedMutexGuard;

use crate::answer::SqlAnswer;
use crate::append::finishing::Finishing;
use crate::by_key;
use crate::database::Database;
use crate::dml::{self, Refused};
use crate::error::{Error, Result, sqlstate};
use crate::lines::Lost;
use crate::query::Context;
use crate::sequence::scope::SessionNumbers;
use crate::sql::ddl::name_of;
use crate::sql::parse::Statement;
use crate::txn::{Isolation, Transaction};

/// Sessions that may be open at a time.
const SESSIONS_MAX: usize = 1_024;
/// A session that nobody uses is closed after this long, its transaction rolled back.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Statements that a session may have prepared.
const PREPARED_MAX: usize = 1_000;

#[derive(Default)]
struct State {
    transaction: Option<Arc<Transaction>>,
    prepared: HashMap<String, Arc<Statement>>,
    numbers: Arc<SessionNumbers>,
}

struct Session {
    state: Arc<tokio::sync::Mutex<State>>,
    used: Instant,
}

/// See the module docs.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<HashMap<String, Session>>,
    ids: RandomState,
}

/// A session while a request runs in it.
pub struct Turn {
    state: OwnedMutexGuard<State>,
    /// Nobody comes back to it.
    only: bool,
    /// What the transaction lost against that has just failed to commit.
    lost: Option<Lost>,
}

fn unknown(id: &str) -> Error {
    let message = format!("session \"{id}\" does not exist");
    Error::new(sqlstate::INVALID_CURSOR_NAME, ErrorKind::NotFound, message)
        .hint(format!("open one with POST /v1/sessions; one that is idle for {} s is closed", IDLE_MAX.as_secs()))
}

impl Sessions {
    /// Opens a session and gives its id.
    ///
    /// # Errors
    /// When there are too many.
    pub fn open(&self) -> Result<String> {
        let now = clock::monotonic();
        let mut open = self.open.lock().expect("no code panics inside");
        open.retain(|_, session| now.duration_since(session.used) < IDLE_MAX || session.state.try_lock().is_err());
        if open.len() >= SESSIONS_MAX {
            let message = format!("{SESSIONS_MAX} sessions are open");
            return Err(Error::new(sqlstate::CONFIGURATION_LIMIT, ErrorKind::Throttled, message)
                .hint("close sessions that are not used any more"));
        }
        // Two keyed hashes of a fresh key each: nobody guesses another's.
        let half = |salt: u8| RandomState::new().hash_one((self.ids.hash_one(salt), open.len(), now));
        let id = format!("{:016x}{:016x}", half(0), half(1));
        open.insert(id.clone(), Session { state: Arc::default(), used: now });
        Ok(id)
    }

    /// Closes a session; what its transaction changed is gone.
    ///
    /// # Errors
    /// When there is none of that id.
    pub fn close(&self, id: &str) -> Result<()> {
        let closed = self.open.lock().expect("no code panics inside").remove(id);
        closed.map(drop).ok_or_else(|| unknown(id))
    }

    /// Begins a request in a session, or in one of its own.
    ///
    /// # Errors
    /// When there is none of that id, and when it is busy until the deadline.
    pub async fn enter(&self, id: Option<&str>, deadline: Instant) -> Result<Turn> {
        let Some(id) = id else {
            let state: Arc<tokio::sync::Mutex<State>> = Arc::default();
            return Ok(Turn { state: state.lock_owned().await, only: true, lost: None });
        };
        let state = {
            let mut open = self.open.lock().expect("no code panics inside");
            let session = open.get_mut(id).ok_or_else(|| unknown(id))?;
            session.used = clock::monotonic();
            Arc::clone(&session.state)
        };
        let turn = tokio::time::timeout_at(deadline.into(), state.lock_owned()).await;
        let busy = |_| {
            Error::new(sqlstate::OBJECT_IN_USE, ErrorKind::Conflict, format!("session \"{id}\" runs another request"))
                .hint("use a session for each thing that runs at the same time")
        };
        Ok(Turn { state: turn.map_err(busy)?, only: false, lost: None })
    }
}

fn no_transaction(statement: &str) -> Error {
    let message = format!("{statement}: there is no transaction in progress");
    Error::new(sqlstate::NO_ACTIVE_SQL_TRANSACTION, ErrorKind::Invalid, message)
        .hint("BEGIN one, in a session or in the same request")
}

fn isolation(modes: &[TransactionMode]) -> Isolation {
    let serializable = TransactionMode::IsolationLevel(TransactionIsolationLevel::Serializable);
    match modes.contains(&serializable) {
        true => Isolation::Serializable,
        false => Isolation::Snapshot,
    }
}

/// The constants that EXECUTE gives, as parameters.
fn constants(given: &[Expr], params: &[serde_json::Value]) -> Result<Vec<serde_json::Value>> {
    let refused = |expr| Error::unsupported(format!("EXECUTE takes constants, not {expr}")).hint("send params with the request");
    given.iter().map(|expr| by_key::parameter(expr, params).ok_or_else(|| refused(expr))).collect()
}

fn done(tag: &'static str) -> SqlAnswer {
    SqlAnswer::Done { tag, position: None }
}

impl Turn {
    /// Runs one statement.
    ///
    /// # Errors
    /// As [`Database::sql`].
    pub async fn execute(&mut self, database: &Database, statement: &Statement, context: Context<'_>) -> Result<SqlAnswer> {
        if let Statement::Sql(ast) = statement
            && let Ast::Execute { name: Some(name), parameters, immediate: false, into, using, .. } = &**ast
            && into.is_empty()
            && using.is_empty()
        {
            let (prepared, params) = (self.prepared(&name_of(name))?, constants(parameters, context.params)?);
            return Box::pin(self.run(database, &prepared, Context { params: &params, ..context })).await;
        }
        self.run(database, statement, context).await
    }

    async fn run(&mut self, database: &Database, statement: &Statement, context: Context<'_>) -> Result<SqlAnswer> {
        if let Statement::Sql(ast) = statement
            && let Some(answer) = self.control(database, ast, context).await
        {
            return answer;
        }
        let numbers = Arc::clone(&self.state.numbers);
        let context = Context { numbers: Some(&numbers), ..context };
        let Some(transaction) = self.state.transaction.clone() else { return database.execute(statement, context).await };
        if transaction.has_failed() {
            let message = "the transaction has failed: nothing is run in it any more";
            return Err(Error::new(sqlstate::IN_FAILED_SQL_TRANSACTION, ErrorKind::Invalid, message)
                .hint("ROLLBACK, or ROLLBACK TO a savepoint"));
        }
        if let Statement::Ddl(ddl) = statement
            && !ddl.only_shows()
        {
            transaction.fail();
            let message = "definitions can't be changed inside a transaction";
            return Err(Error::new(sqlstate::ACTIVE_SQL_TRANSACTION, ErrorKind::Invalid, message).hint("COMMIT first"));
        }
        transaction.fail();
        let answer = database.execute(statement, Context { transaction: Some(&transaction), ..context }).await?;
        transaction.recover();
        Ok(answer)
    }

    /// BEGIN, COMMIT and the like; `None` if it is something else.
    async fn control(&mut self, database: &Database, statement: &Ast, context: Context<'_>) -> Option<Result<SqlAnswer>> {
        Some(match statement {
            Ast::StartTransaction { modes, statements, .. } if statements.is_empty() => self.begin(database, modes),
            Ast::Commit { .. } => self.commit(database, context).await,
            Ast::Rollback { savepoint: None, .. } => match self.state.transaction.take() {
                Some(_) => Ok(done("ROLLBACK")),
                None => Err(no_transaction("ROLLBACK")),
            },
            Ast::Rollback { savepoint: Some(name), .. } => {
                let name = name_of(&name.clone().into());
                self.within("ROLLBACK TO", |transaction| transaction.rollback_to(&name)).map(|()| done("ROLLBACK"))
            }
            Ast::Savepoint { name } => {
                let name = name_of(&name.clone().into());
                self.within("SAVEPOINT", |transaction| match transaction.has_failed() {
                    true => Err(Error::new(
                        sqlstate::IN_FAILED_SQL_TRANSACTION,
                        ErrorKind::Invalid,
                        "the transaction has failed: no savepoint can be set",
                    )),
                    false => {
                        transaction.savepoint(&name);
                        Ok(())
                    }
                })
                .map(|()| done("SAVEPOINT"))
            }
            Ast::ReleaseSavepoint { name } => {
                let name = name_of(&name.clone().into());
                self.within("RELEASE", |transaction| transaction.release(&name)).map(|()| done("RELEASE"))
            }
            Ast::Prepare { name, statement, .. } => self.prepare(name_of(&name.clone().into()), statement),
            Ast::Deallocate { name, .. } => self.deallocate(&name_of(&name.clone().into())),
            _ => return None,
        })
    }

    fn prepared(&self, name: &str) -> Result<Arc<Statement>> {
        self.state.prepared.get(name).cloned().ok_or_else(|| {
            let message = format!("prepared statement \"{name}\" does not exist");
            Error::new(sqlstate::INVALID_SQL_STATEMENT_NAME, ErrorKind::NotFound, message)
                .hint("PREPARE it in the same session, or in the same request")
        })
    }

    fn prepare(&mut self, name: String, statement: &Ast) -> Result<SqlAnswer> {
        if !matches!(statement, Ast::Query(_) | Ast::Insert(_) | Ast::Update(_) | Ast::Delete(_) | Ast::Merge(_)) {
            return Err(Error::syntax("PREPARE takes SELECT, INSERT, UPDATE, DELETE or MERGE"));
        }
        if self.state.prepared.contains_key(&name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(Error::new(sqlstate::DUPLICATE_PREPARED_STATEMENT, ErrorKind::Conflict, message)
                .hint(format!("DEALLOCATE {name} first")));
        }
        if self.state.prepared.len() >= PREPARED_MAX {
            let message = format!("the session has prepared {PREPARED_MAX} statements");
            return Err(Error::new(sqlstate::CONFIGURATION_LIMIT, ErrorKind::Throttled, message).hint("DEALLOCATE some"));
        }
        self.state.prepared.insert(name, Arc::new(Statement::Sql(Box::new(statement.clone()))));
        Ok(done("PREPARE"))
    }

    fn deallocate(&mut self, name: &str) -> Result<SqlAnswer> {
        if name == "all" {
            self.state.prepared.clear();
            return Ok(done("DEALLOCATE ALL"));
        }
        self.prepared(name)?;
        self.state.prepared.remove(name);
        Ok(done("DEALLOCATE"))
    }

    fn within(&self, statement: &str, act: impl FnOnce(&Transaction) -> Result<()>) -> Result<()> {
        act(self.state.transaction.as_ref().ok_or_else(|| no_transaction(statement))?)
    }

    fn begin(&mut self, database: &Database, modes: &[TransactionMode]) -> Result<SqlAnswer> {
        if self.state.transaction.is_some() {
            let message = "there is a transaction in progress already";
            return Err(Error::new(sqlstate::ACTIVE_SQL_TRANSACTION, ErrorKind::Invalid, message)
                .hint("COMMIT or ROLLBACK it, or use SAVEPOINT"));
        }
        let transaction = Arc::new(Transaction::new(isolation(modes)));
        database.vacuums().note(&transaction);
        self.state.transaction = Some(transaction);
        Ok(done("BEGIN"))
    }

    async fn commit(&mut self, database: &Database, context: Context<'_>) -> Result<SqlAnswer> {
        let transaction = self.state.transaction.take().ok_or_else(|| no_transaction("COMMIT"))?;
        if transaction.has_failed() {
            return Ok(done("ROLLBACK"));
        }
        let (own, deadline) = (database.clone(), context.deadline);
        // Once it is on its way it is finished, also when the client vanishes.
        let committing = async move {
            let _gate = own.gate().read().await;
            match dml::commit(&own, &transaction, deadline).await {
                Ok(position) => (Ok(position), None),
                Err(Refused::Lost(lost)) => (Err(Lost::error("another transaction changed what this one rests on")), Some(lost)),
                Err(Refused::Error(error)) => (Err(error), None),
            }
        };
        let (position, lost) = Finishing::new(database.runtime().clone(), committing).await;
        self.lost = lost;
        Ok(SqlAnswer::Done { tag: "COMMIT", position: position? })
    }

    /// Whether a transaction is under way.
    #[must_use]
    pub fn is_in_transaction(&self) -> bool {
        self.state.transaction.is_some()
    }

    /// What the transaction lost against that has just failed to commit, once.
    pub fn take_lost(&mut self) -> Option<Lost> {
        self.lost.take()
    }

    /// Ends a request.
    ///
    /// # Errors
    /// When a request by itself ends inside a transaction, which is rolled back.
    pub fn leave(self) -> Result<()> {
        if self.only && self.state.transaction.is_some() {
            let message = "the request ends inside a transaction: nothing of it was done";
            return Err(Error::new(sqlstate::ACTIVE_SQL_TRANSACTION, ErrorKind::Invalid, message)
                .hint("end it with COMMIT, or open a session: POST /v1/sessions"));
        }
        Ok(())
    }
}
