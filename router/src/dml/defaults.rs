//! What columns hold that a statement does not give: constants once, numbers of sequences and everything else that is new each
//! time for each row.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::logical_expr::Volatility;
use datafusion::sql::sqlparser::ast::{Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Value as Literal, Visit, Visitor};
use rowstore::{Column, TableSchema, Value};

use super::{ROWS_BYTES_MAX, select_items};
use crate::catalog::SequenceDef;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::query::{self, Context};
use crate::sequence;
use crate::sql::assign::assign;
use crate::sql::ddl::name_of;
use crate::sql::parse::{Statement as Parsed, parse};

/// What DEFAULT stands for.
///
/// # Errors
/// When the catalog's text is no expression: a bug.
pub fn effective_default(column: &Column) -> Result<Expr> {
    expression(column.default.as_deref().unwrap_or("NULL"))
}

fn expression(text: &str) -> Result<Expr> {
    match select_items(&format!("({text})"))?.pop() {
        Some(datafusion::sql::sqlparser::ast::SelectItem::UnnamedExpr(expr)) => Ok(expr),
        _ => Err(Error::syntax(format!("DEFAULT {text} is not an expression"))),
    }
}

/// How a default comes to its value.
enum Way {
    /// The same for all rows of a statement.
    Once,
    /// The next number.
    Number(Arc<SequenceDef>),
    /// Anew for each row.
    EachRow,
}

struct Calls<'a> {
    database: &'a Database,
    volatile: bool,
}

impl Visitor for Calls<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            let known = self.database.session().scalar_functions().get(name_of(&function.name).as_str());
            self.volatile |= known.is_some_and(|known| known.signature().volatility == Volatility::Volatile);
        }
        ControlFlow::Continue(())
    }
}

/// The sequence of a default that is nothing but `nextval('name')`.
fn sequence_of(database: &Database, mut expr: &Expr) -> Result<Option<Arc<SequenceDef>>> {
    while let Expr::Nested(inner) = expr {
        expr = inner;
    }
    let Expr::Function(function) = expr else { return Ok(None) };
    if name_of(&function.name) != "nextval" {
        return Ok(None);
    }
    let FunctionArguments::List(list) = &function.args else { return Ok(None) };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] = &list.args[..] else { return Ok(None) };
    let argument = match argument {
        Expr::Cast { expr, .. } => &**expr,
        other => other,
    };
    match argument {
        Expr::Value(value) => match &value.value {
            Literal::SingleQuotedString(name) => sequence::functions::find(database, name).map(Some),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

fn way(database: &Database, default: &str) -> Result<Way> {
    let expr = expression(default)?;
    if let Some(sequence) = sequence_of(database, &expr)? {
        return Ok(Way::Number(sequence));
    }
    let mut calls = Calls { database, volatile: false };
    let _ = Visit::visit(&expr, &mut calls);
    Ok(if calls.volatile { Way::EachRow } else { Way::Once })
}

/// The values of columns that a statement does not give, row after row.
pub struct Defaults {
    row: Vec<Value>,
    /// Those that differ from row to row, by column.
    each: Vec<(usize, Vec<Value>)>,
}

impl Defaults {
    /// All columns of a row; those that are given hold NULL.
    #[must_use]
    pub fn row(&self, at: usize) -> Vec<Value> {
        let mut row = self.row.clone();
        for (column, values) in &self.each {
            row[*column] = values.get(at).cloned().unwrap_or(Value::Null);
        }
        row
    }
}

/// The defaults of `rows` rows for the columns that are not `given`.
///
/// # Errors
/// When one does not evaluate or does not fit its column.
pub async fn defaults(
    database: &Database,
    schema: &TableSchema,
    given: &[usize],
    rows: usize,
    context: Context<'_>,
) -> Result<Defaults> {
    let mut made = Defaults { row: vec![Value::Null; schema.columns.len()], each: Vec::new() };
    for (at, column) in schema.columns.iter().enumerate() {
        let Some(default) = column.default.as_ref().filter(|_| !given.contains(&at) && rows > 0) else { continue };
        match way(database, default)? {
            Way::Once => made.row[at] = evaluate(database, default, schema, at, context).await?,
            Way::Number(sequence) => {
                let wanted = rows as u64;
                let numbers = match sequence::next_reserved(database, &sequence, wanted) {
                    Some(numbers) => numbers,
                    None => sequence::next(database, &sequence, wanted).await?,
                };
                if let (Some(seen), Some(last)) = (context.numbers, numbers.last()) {
                    seen.note(sequence.id, *last, true);
                }
                let array: ArrayRef = Arc::new(datafusion::arrow::array::Int64Array::from(numbers));
                made.each.push((at, values(&assign(&array, schema, at)?, column)));
            }
            Way::EachRow => {
                let text = format!("SELECT ({default}) FROM generate_series(1, {rows}) AS headwater_rows");
                let mut all = Vec::with_capacity(rows);
                for array in run(database, &text, context).await? {
                    all.extend(values(&assign(&array, schema, at)?, column));
                }
                made.each.push((at, all));
            }
        }
    }
    Ok(made)
}

fn values(array: &ArrayRef, column: &Column) -> Vec<Value> {
    (0..array.len()).map(|row| Value::from_array(array, row, &column.kind)).collect()
}

/// The first column of a SELECT.
async fn run(database: &Database, text: &str, context: Context<'_>) -> Result<Vec<ArrayRef>> {
    let Some(Parsed::Sql(statement)) = parse(text, 1)?.pop() else { return Err(Error::internal("a SELECT was expected")) };
    let planned = query::plan(database, *statement, Context { params: &[], ..context }, None).await?;
    let batches = planned.collect(database, context.deadline, ROWS_BYTES_MAX).await?;
    Ok(batches.iter().map(|batch| Arc::clone(batch.column(0))).collect())
}

/// The value of a default's expression for a column, once.
///
/// # Errors
/// When it does not evaluate or does not fit the column.
pub async fn evaluate(
    database: &Database,
    default: &str,
    schema: &TableSchema,
    at: usize,
    context: Context<'_>,
) -> Result<Value> {
    expression(default)?;
    let arrays = run(database, &format!("SELECT ({default})"), context).await?;
    let array = arrays.first().ok_or_else(|| Error::internal("a SELECT without FROM has one row"))?;
    Ok(Value::from_array(&assign(array, schema, at)?, 0, &schema.columns[at].kind))
}

/// Whether a default can be one of a column. Takes no number of a sequence.
///
/// # Errors
/// When it does not evaluate or does not fit the column.
pub async fn check_default(
    database: &Database,
    default: &str,
    schema: &TableSchema,
    at: usize,
    context: Context<'_>,
) -> Result<()> {
    if let Some(sequence) = sequence_of(database, &expression(default)?)? {
        let number: ArrayRef = Arc::new(datafusion::arrow::array::Int64Array::from(vec![sequence.start]));
        return assign(&number, schema, at).map(drop);
    }
    let Some(Parsed::Sql(mut statement)) = parse(&format!("SELECT ({default})"), 1)?.pop() else {
        return Err(Error::syntax(format!("DEFAULT {default} is not an expression")));
    };
    if sequence::scope::is_called(&mut statement) {
        return query::plan(database, *statement, Context { params: &[], ..context }, None).await.map(drop);
    }
    evaluate(database, default, schema, at, context).await.map(drop)
}
