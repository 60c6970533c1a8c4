//! What every contender of one trial has to do: take the same feeds off the same wire, and send the same
//! copies, on the same core.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use relay_tests::netns::Namespace;
use serde::{Deserialize, Serialize};

/// One trial's work, in the words of no particular contender.
#[derive(Debug, Clone)]
pub struct Job {
    /// The host that the contender runs in. Its interfaces are there, up and addressed.
    pub namespace: Arc<Namespace>,
    /// The CPU that all of the contender's threads are pinned to.
    pub cpu: u32,
    /// The interface that the feeds come in by.
    pub input: String,
    /// The feeds, one a rule. Traffic may use only the first ones: the others make the rule set larger.
    pub flows: Vec<Flow>,
}

/// One feed and its copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The group it comes to.
    pub group: Ipv4Addr,
    /// The destination port it comes to.
    pub port: u16,
    /// The copies. Never empty.
    pub outputs: Vec<Output>,
}

/// One copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The interface it leaves by.
    pub interface: String,
    /// The group it goes to; a contender that cannot rewrite keeps the flow's.
    pub group: Ipv4Addr,
    /// The destination port it goes to; a contender that cannot rewrite keeps the flow's.
    pub port: u16,
}

/// A job as the benchmark's own programs read it, as JSON. They are started where the namespace and
/// the CPU say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The interface that the feeds come in by.
    pub input: String,
    /// The feeds.
    pub flows: Vec<Flow>,
}

impl Job {
    /// What a program has to know that was started in the right place.
    pub fn work(&self) -> Work {
        Work {
            input: self.input.clone(),
            flows: self.flows.clone(),
        }
    }

    /// The interfaces that copies leave by, each once.
    pub fn output_interfaces(&self) -> BTreeSet<&str> {
        let outputs = self.flows.iter().flat_map(|flow| &flow.outputs);
        outputs.map(|output| output.interface.as_str()).collect()
    }
}
