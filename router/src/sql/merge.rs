//! What the parser doesn't know of PostgreSQL's MERGE: `DO NOTHING` and `INSERT DEFAULT VALUES`, written as something it does.

use datafusion::sql::sqlparser::ast::{MergeAction, MergeInsertKind, ObjectName};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};

use super::ddl::name_of;
use super::dialect::HeadwaterDialect;

/// The column whose change stands for no change.
const NOTHING: &str = "headwater_nothing";

fn is_word(token: &Token, text: &str) -> bool {
    matches!(token, Token::Word(Word { value, quote_style: None, .. }) if value.eq_ignore_ascii_case(text))
}

/// Rewrites the tokens of a MERGE; those of anything else stay as they are.
#[must_use]
pub fn plain(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let blank = |token: &TokenWithSpan| matches!(token.token, Token::Whitespace(_));
    if !tokens.iter().find(|token| !blank(token)).is_some_and(|first| is_word(&first.token, "merge")) {
        return tokens;
    }
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut tokens = tokens.into_iter().filter(|token| !blank(token)).peekable();
    let mut matched = true;
    while let Some(token) = tokens.next() {
        let follows = |text: &str, tokens: &mut std::iter::Peekable<_>| {
            let next: Option<&TokenWithSpan> = tokens.peek();
            next.is_some_and(|next| is_word(&next.token, text))
        };
        if is_word(&token.token, "when") {
            matched = !follows("not", &mut tokens);
        }
        let text = if is_word(&token.token, "do") && follows("nothing", &mut tokens) {
            match matched {
                true => format!("UPDATE SET {NOTHING} = 0"),
                false => format!("INSERT ({NOTHING}) VALUES (0)"),
            }
        } else if is_word(&token.token, "default") && follows("values", &mut tokens) {
            "VALUES (DEFAULT)".to_owned()
        } else {
            out.push(token);
            continue;
        };
        tokens.next();
        let made = Tokenizer::new(&HeadwaterDialect::default(), &text).tokenize().unwrap_or_default();
        let made = made.into_iter().filter(|made| !matches!(made, Token::Whitespace(_)));
        out.extend(made.map(|made| TokenWithSpan { token: made, span: token.span }));
    }
    out
}

/// Whether an action is `DO NOTHING`.
#[must_use]
pub fn is_nothing(action: &MergeAction) -> bool {
    let nothing = |name: &ObjectName| name_of(name) == NOTHING;
    match action {
        MergeAction::Insert(insert) => matches!(insert.kind, MergeInsertKind::Values(_)) && insert.columns.iter().any(nothing),
        MergeAction::Update(update) => update.assignments.iter().any(|assignment| {
            use datafusion::sql::sqlparser::ast::AssignmentTarget::ColumnName;
            matches!(&assignment.target, ColumnName(name) if nothing(name))
        }),
        MergeAction::Delete { .. } => false,
    }
}
