//! What `nextval` and its like need beside their arguments: the database, and what the session has seen.
//!
//! DataFusion's functions know nothing of who calls them but the session's options, so this travels as an extension of them.
//! [`crate::query`] puts it there, for statements that call one of these functions only: it costs a copy of the options.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use datafusion::common::DataFusionError;
use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::{
    DataType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Statement, VisitMut, VisitorMut,
};

use crate::database::Database;
use crate::sql::ddl::name_of;

/// The functions.
const NAMES: [&str; 4] = ["nextval", "currval", "lastval", "setval"];

/// The last numbers that a session was given, by sequence.
#[derive(Debug, Default)]
pub struct SessionNumbers {
    inner: Mutex<(HashMap<u32, i64>, Option<u32>)>,
}

impl SessionNumbers {
    /// Notes what the session was given.
    pub fn note(&self, sequence: u32, number: i64, is_last: bool) {
        let mut inner = self.inner.lock().expect("no code panics inside");
        inner.0.insert(sequence, number);
        if is_last {
            inner.1 = Some(sequence);
        }
    }

    /// The last number of a sequence.
    #[must_use]
    pub fn current(&self, sequence: u32) -> Option<i64> {
        self.inner.lock().expect("no code panics inside").0.get(&sequence).copied()
    }

    /// The last number of all, with its sequence.
    #[must_use]
    pub fn last(&self) -> Option<(u32, i64)> {
        let inner = self.inner.lock().expect("no code panics inside");
        let sequence = inner.1?;
        inner.0.get(&sequence).map(|number| (sequence, *number))
    }
}

/// See the module docs.
#[derive(Clone)]
pub struct Scope {
    /// The database.
    pub database: Database,
    /// What the session was given.
    pub numbers: Arc<SessionNumbers>,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")
    }
}

impl ConfigExtension for Scope {
    const PREFIX: &'static str = "headwater_sequences";
}

impl ExtensionOptions for Scope {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _value: &str) -> Result<(), DataFusionError> {
        Err(DataFusionError::Configuration(format!("there is no setting \"{key}\"")))
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}

/// Puts the scope into a session.
pub fn enter(state: &mut SessionState, scope: Scope) {
    state.config_mut().options_mut().extensions.insert(scope);
    // What runs later takes the options from here.
    state.mark_start_execution();
}

/// Whether a statement calls one of the functions. `'name'::regclass` in their arguments becomes `'name'`.
pub fn is_called(statement: &mut Statement) -> bool {
    let mut calls = Calls(false);
    let _ = VisitMut::visit(statement, &mut calls);
    calls.0
}

struct Calls(bool);

impl VisitorMut for Calls {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && NAMES.contains(&name_of(&function.name).as_str())
        {
            self.0 = true;
            if let FunctionArguments::List(list) = &mut function.args
                && let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(first))) = list.args.first_mut()
                && let Expr::Cast { expr, data_type: DataType::Regclass, .. } = first
            {
                *first = (**expr).clone();
            }
        }
        ControlFlow::Continue(())
    }
}
