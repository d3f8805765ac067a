//! A request of SQL: its statements in order, in a session or one of its own.
//!
//! A transaction that begins and ends in one request, and loses against another at COMMIT, is run again as a whole: nobody has seen
//! an answer of it.

use std::ops::Range;

use datafusion::sql::sqlparser::ast::Statement as Ast;
use logcore::ErrorKind;

use crate::answer::{SqlAnswer, SqlRequest};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::lines::Attempts;
use crate::query::Context;
use crate::sql::parse::Statement;

impl Database {
    /// Runs SQL: one statement or several, in order. A statement that fails ends the request; those before it stay done.
    ///
    /// # Errors
    /// Everything that is wrong with the text or happens on the way; with several statements the message says which one.
    pub async fn sql(&self, request: SqlRequest) -> Result<Vec<SqlAnswer>> {
        let limits = &self.options().limits;
        if request.sql.len() > limits.sql_bytes_max {
            let message = format!("the SQL text has {} bytes, the limit is {}", request.sql.len(), limits.sql_bytes_max);
            return Err(Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, ErrorKind::TooLarge, message));
        }
        let statements = self.statements().parse(&request.sql, limits.statements_max)?;
        if statements.is_empty() {
            return Err(Error::syntax("there is no statement in the request"));
        }
        let SqlRequest { params, wait, deadline, session, .. } = &request;
        let context = Context { params, wait, deadline: *deadline, transaction: None, numbers: None };
        let mut answers = Vec::with_capacity(statements.len());
        let mut session = self.sessions().enter(session.as_deref(), *deadline).await?;
        let (mut began, mut attempts) = (None, Attempts::default());
        while let Some(statement) = statements.get(answers.len()) {
            let n = answers.len();
            if !session.is_in_transaction() {
                began = Some(n);
            }
            let answer = Box::pin(session.execute(self, statement, context)).await;
            let error = match answer {
                Ok(answer) => {
                    answers.push(answer);
                    continue;
                }
                Err(error) => error,
            };
            let again = session.take_lost().zip(began.filter(|began| is_repeatable(&statements, *began..n)));
            if let Some((lost, began)) = again
                && attempts.again(self, lost, *deadline).await.is_ok()
            {
                answers.truncate(began);
                continue;
            }
            return Err(numbered(self.named(error), n, statements.len()));
        }
        session.leave()?;
        Ok(answers)
    }
}

/// Whether running these statements again, of which the first begins a transaction that came to nothing, leaves nothing twice.
fn is_repeatable(statements: &[Statement], range: Range<usize>) -> bool {
    statements[range].iter().all(|statement| match statement {
        Statement::Ddl(_) => false,
        Statement::Sql(statement) => !matches!(**statement, Ast::Prepare { .. } | Ast::Deallocate { .. } | Ast::Copy { .. }),
    })
}

/// Says of an error which of several statements it is of, and what the others came to.
fn numbered(error: Error, n: usize, statements: usize) -> Error {
    if statements == 1 {
        return error;
    }
    let done = (n > 0).then_some("the statements before it are done");
    let numbered = Error::new(error.code(), error.kind(), format!("statement {}: {}", n + 1, error.message()));
    match (error.hint_text(), done) {
        (Some(hint), None) => numbered.hint(hint),
        (Some(hint), Some(done)) => numbered.hint(format!("{hint}; {done}")),
        (None, None) => numbered,
        (None, Some(done)) => numbered.hint(done),
    }
}
