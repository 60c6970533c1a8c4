//! The kernel side of a whole plan at once.

use super::{Kernel, KernelError, OwnSource};
use crate::plan::{Flow, Plan};

impl Kernel {
    /// Loads the programs that `plan` needs, serves its inputs, and attaches the XDP program to
    /// each interface that needs it (`Interface::needs_program`).
    ///
    /// # Errors
    ///
    /// The kernel's first refusal; programs attached before it are detached again.
    pub fn for_plan(plan: &Plan) -> Result<Self, KernelError> {
        let mut kernel = Self::new();
        kernel.expect_limits(plan.limits());
        kernel.set_own_sources(&OwnSource::of(plan))?;
        for interface in &plan.interfaces {
            if interface.is_input {
                kernel.serve(interface)?;
            }
            if interface.needs_program() {
                kernel.attach(interface)?;
            }
        }
        Ok(kernel)
    }

    /// Makes every flow of `plan` match. From here on the kernel delivers frames to the relay.
    ///
    /// # Errors
    ///
    /// A map refused an entry.
    pub fn open_plan(&mut self, plan: &Plan) -> Result<(), KernelError> {
        for (rule, flow) in plan.flows.with_ids() {
            let Some(input) = plan.interfaces.get(flow.interface) else {
                continue;
            };
            let rule = rule.position() as u32;
            for key in plan.keys(flow) {
                self.open(&key, input.backend, rule, &flow.rule, flow.limit)?;
            }
        }
        Ok(())
    }

    /// Makes every flow of `plan` stop matching, and returns how many datagrams were
    /// above the limits of each rule, by position in [`Plan::flows`].
    pub fn close_plan(&mut self, plan: &Plan) -> Vec<u64> {
        let mut close = |flow: &Flow| {
            let Some(input) = plan.interfaces.get(flow.interface) else {
                return 0;
            };
            let keys = plan.keys(flow);
            keys.map(|key| self.close(&key, input.backend)).sum()
        };
        plan.flows.iter().map(&mut close).collect()
    }
}
