//! What is kept while a rule file is read, table by table.

use super::{Place, draft::Draft, mistake::Collector};

/// Walks the tree; the readers of single values are in [`super::values`].
pub(super) struct Reader<'f, 't> {
    pub(super) found: &'f mut Collector<'t>,
    pub(super) draft: Draft,
    /// The number of rules so far, including wrong ones and those beyond [`super::MAX_RULES`].
    pub(super) rules: usize,
    /// Where the file says that it has none.
    pub(super) none: Option<Place>,
    /// The `[metrics]` table, the first that the file has.
    pub(super) metrics_at: Option<Place>,
    /// The index of the mistake that reports too many rules.
    pub(super) extra: Option<usize>,
}

/// The syntax errors of a file: place and message.
pub(super) type SyntaxErrors = Vec<(Place, String)>;
