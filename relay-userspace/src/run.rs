//! Stands in for the forwarding loop until that is merged.

/// Would run `plan`.
///
/// # Errors
///
/// Always.
pub fn run(_plan: &crate::plan::Plan, _json: bool) -> anyhow::Result<()> {
    anyhow::bail!("forwarding is not part of this build")
}
