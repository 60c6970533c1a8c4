//! The usual hosts of a test: sources, relay and receivers, each a namespace of its own.
//!
//! ```text
//!   source 0  src0 ------ in0 +-------+ out0 ------ rcv0  receiver 0
//!             10.1.0.2        |       |        10.2.0.2
//!   source 1  src1 ------ in1 | relay | out1 ------ rcv1  receiver 1
//!             10.1.1.2        +-------+        10.2.1.2
//! ```
//!
//! The relay's end of each wire is `.1`. Every testbed has its own namespaces, so the same names
//! and addresses in tests that run side by side never meet.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;

use crate::capture::Capture;
use crate::netns::Namespace;
use crate::veth::{End, Endpoint, connect};

/// The hosts and wires of one test. Everything is removed on drop.
#[derive(Debug)]
pub struct Testbed {
    /// The host that the relay runs in.
    pub relay: Arc<Namespace>,
    /// The relay's `in0`, `in1`, ...
    pub inputs: Vec<Endpoint>,
    /// The relay's `out0`, `out1`, ...
    pub outputs: Vec<Endpoint>,
    /// The far ends of the inputs: `src0`, ...
    pub sources: Vec<Endpoint>,
    /// The far ends of the outputs: `rcv0`, ...
    pub receivers: Vec<Endpoint>,
    _captures: Vec<Capture>,
}

/// What a [`Testbed`] will have.
#[derive(Debug, Clone)]
pub struct Builder {
    input_mtus: Vec<u32>,
    output_mtus: Vec<u32>,
    queues: u32,
    capture: bool,
    ipv6: bool,
}

impl Testbed {
    /// One input, one output, MTU 1500, one queue, captures on.
    pub fn builder() -> Builder {
        Builder {
            input_mtus: vec![1500],
            output_mtus: vec![1500],
            queues: 1,
            capture: true,
            ipv6: false,
        }
    }

    /// A testbed of wires that exist, each as the relay's end and the far end; without captures.
    pub fn of_wires(
        relay: Arc<Namespace>,
        inputs: Vec<(Endpoint, Endpoint)>,
        outputs: Vec<(Endpoint, Endpoint)>,
    ) -> Self {
        let (inputs, sources) = inputs.into_iter().unzip();
        let (outputs, receivers) = outputs.into_iter().unzip();
        Self {
            relay,
            inputs,
            outputs,
            sources,
            receivers,
            _captures: Vec::new(),
        }
    }

    /// The same with IPv6 beside IPv4 on all hosts, see [`End::ipv6`].
    pub fn with_ipv6(self) -> Result<Self> {
        let all = |ends: Vec<Endpoint>| {
            ends.into_iter()
                .map(Endpoint::with_ipv6)
                .collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            inputs: all(self.inputs)?,
            outputs: all(self.outputs)?,
            sources: all(self.sources)?,
            receivers: all(self.receivers)?,
            ..self
        })
    }

    /// One input and one output.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }
}

impl Builder {
    /// How many source hosts.
    #[must_use]
    pub fn inputs(mut self, count: usize) -> Self {
        self.input_mtus.resize(count, 1500);
        self
    }

    /// How many receiving hosts.
    #[must_use]
    pub fn outputs(mut self, count: usize) -> Self {
        self.output_mtus.resize(count, 1500);
        self
    }

    /// The MTU of both ends of one input's wire; no effect on an input that is not there.
    #[must_use]
    pub fn input_mtu(mut self, input: usize, mtu: u32) -> Self {
        if let Some(slot) = self.input_mtus.get_mut(input) {
            *slot = mtu;
        }
        self
    }

    /// The MTU of both ends of one output's wire; no effect on an output that is not there.
    #[must_use]
    pub fn output_mtu(mut self, output: usize, mtu: u32) -> Self {
        if let Some(slot) = self.output_mtus.get_mut(output) {
            *slot = mtu;
        }
        self
    }

    /// Queues of every interface.
    #[must_use]
    pub fn queues(mut self, queues: u32) -> Self {
        self.queues = queues;
        self
    }

    /// With IPv6 beside IPv4 on all hosts, see [`End::ipv6`].
    #[must_use]
    pub fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// Without the captures, which cost the receivers some throughput.
    #[must_use]
    pub fn without_capture(mut self) -> Self {
        self.capture = false;
        self
    }

    /// Makes the hosts and wires.
    pub fn build(self) -> Result<Testbed> {
        let relay = Arc::new(Namespace::new("relay")?);
        let side = |near: &str, far: &str, subnet: u8, mtus: &[u32]| -> Result<Vec<_>> {
            let mut pairs = Vec::new();
            for (i, &mtu) in mtus.iter().enumerate() {
                let host = Arc::new(Namespace::new(&format!("{far}{i}"))?);
                let end = |namespace: &Arc<Namespace>, name: &str, last: u8| {
                    let i = i as u8;
                    End {
                        namespace: Arc::clone(namespace),
                        interface: format!("{name}{i}"),
                        mac: [0x02, 0, 10, subnet, i, last],
                        address: Some(Ipv4Addr::new(10, subnet, i, last)),
                        ipv6: self.ipv6,
                        mtu,
                        queues: self.queues,
                    }
                };
                pairs.push(connect(end(&relay, near, 1), end(&host, far, 2))?);
            }
            Ok(pairs)
        };
        let (inputs, sources): (Vec<_>, Vec<_>) =
            side("in", "src", 1, &self.input_mtus)?.into_iter().unzip();
        let (outputs, receivers): (Vec<_>, Vec<_>) = side("out", "rcv", 2, &self.output_mtus)?
            .into_iter()
            .unzip();
        let mut captures = Vec::new();
        if self.capture {
            for endpoint in receivers.iter().chain(&sources) {
                captures.push(Capture::start(endpoint)?);
            }
        }
        Ok(Testbed {
            relay,
            inputs,
            outputs,
            sources,
            receivers,
            _captures: captures,
        })
    }
}
