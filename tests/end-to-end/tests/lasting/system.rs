//! A running relay with its hosts and wires: changes are made to it, and what it holds and says is
//! looked at from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::holdings::CLAIM;
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::report::Report;
use relay_tests::scenario::far_end;
use relay_tests::topology::Testbed;
use relay_tests::veth::{Endpoint, format_mac, plug};

use super::kernel_maps::{self, KernelMaps};
use super::model::{Active, Entry, LEAD, Link, Model, Step};
use super::universe::{self, FAR, INPUTS, INTERFACES, NOBODY, Source};

/// How long the relay may take until all is as it must be. What the kernel refused for a moment it
/// tries again after a second.
const AGREES: Duration = Duration::from_secs(5);

/// What can be seen of a relay.
#[derive(Debug, Default)]
pub struct Picture {
    /// Each part as one line, by what it is.
    parts: BTreeMap<String, String>,
    xdp_sockets: usize,
}

impl Picture {
    fn insert(&mut self, what: String, seen: String) {
        self.parts.insert(what, seen);
    }
}

/// The wire at one of the relay's interfaces.
#[derive(Debug, Clone)]
pub struct Wire {
    /// The relay's end.
    pub near: Endpoint,
    /// The other end.
    pub far: Endpoint,
}

/// The hosts, the wires and the relay.
#[derive(Debug)]
pub struct System {
    bed: Testbed,
    backend: Backend,
    /// The wires of [`INTERFACES`], also those that were deleted.
    pub wires: Vec<Wire>,
    /// The relay.
    pub relay: RelayProcess,
    /// The file that it was started with.
    file: PathBuf,
}

impl System {
    /// Starts a relay on `backend` with the rules of `model`, whose interfaces are all there.
    pub fn start(backend: Backend, model: &Model) -> Result<Self> {
        let bed = Testbed::builder()
            .inputs(INPUTS)
            .outputs(INTERFACES.len() - INPUTS)
            .ipv6()
            .without_capture()
            .build()?;
        let wire = |name: &&str| -> Result<Wire> {
            let mut near = bed.inputs.iter().chain(&bed.outputs);
            let near = near.find(|near| near.interface == *name);
            Ok(Wire {
                near: near
                    .with_context(|| format!("no interface {name}"))?
                    .clone(),
                far: far_end(&bed, name)?.clone(),
            })
        };
        let wires = INTERFACES.iter().map(wire).collect::<Result<_>>()?;
        let (relay, file) = begin(&bed, backend, model)?;
        Ok(Self {
            bed,
            backend,
            wires,
            relay,
            file,
        })
    }

    /// Ends the relay by SIGTERM, and starts another one with the rules of `model`. Returns the
    /// report of the first, which is held to the same as by [`Self::stop`].
    pub fn relaunch(self, model: &Model) -> Result<(Self, Report)> {
        let report = end(self.relay, &self.bed, &self.wires)?;
        let (relay, file) = begin(&self.bed, self.backend, model)?;
        Ok((
            Self {
                relay,
                file,
                ..self
            },
            report,
        ))
    }

    /// The same by SIGKILL, so that there is no report. Fails unless the kernel has then released
    /// what the first relay held.
    pub fn relaunch_killed(self, model: &Model) -> Result<Self> {
        self.relay.kill()?;
        // References of io_uring go a moment after the process.
        let host = &self.bed.relay;
        let gone = eventually(AGREES, || host.packet_sockets().is_ok_and(|left| left == 0));
        ensure!(gone.is_some(), "packet sockets of a killed relay are open");
        nothing_stays(&self.bed, &self.wires)?;
        let (relay, file) = begin(&self.bed, self.backend, model)?;
        Ok(Self {
            relay,
            file,
            ..self
        })
    }

    /// Writes `desired` to the file that the relay was started with, and sends it SIGHUP.
    pub fn hang_up(&self, desired: &[Entry]) -> Result<()> {
        let file = &self.file;
        fs::write(file, file_of(desired)).with_context(|| format!("writing {file:?}"))?;
        self.relay.signal(Signal::SIGHUP)
    }

    /// Makes a change. False if the relay has refused it.
    pub fn apply(&mut self, step: &Step, before: &Model) -> Result<bool> {
        let relay = &self.relay;
        let answer = match step {
            Step::Add(number, form) => relay.add(&universe::text(*number, *form, true))?,
            Step::Remove(number) => relay.verb(&["remove", &universe::name(*number)])?,
            Step::Enable(number) => relay.verb(&["enable", &universe::name(*number)])?,
            Step::Disable(number) => relay.verb(&["disable", &universe::name(*number)])?,
            Step::Reload(entries) => {
                let entries = entries.iter();
                let texts = entries.map(|&(number, form, on)| universe::text(number, form, on));
                relay.reload_with(&texts.collect::<String>(), &["--discard-runtime"])?
            }
            Step::Undo => relay.verb(&["undo"])?,
            Step::Down(at)
            | Step::Up(at)
            | Step::Flap(at)
            | Step::Delete(at)
            | Step::Create(at)
            | Step::Replug(at) => {
                self.change_link(step, *at, before)?;
                return Ok(true);
            }
            Step::Lead(_) | Step::Unlead => {
                self.change_route(step, before)?;
                return Ok(true);
            }
        };
        match answer.code {
            Some(0) => Ok(true),
            // Mistakes, or a refusal.
            Some(78 | 69) => {
                eprintln!("refused: {}", answer.stderr.trim());
                Ok(false)
            }
            _ => anyhow::bail!("{answer:?}"),
        }
    }

    fn change_link(&mut self, step: &Step, at: usize, before: &Model) -> Result<()> {
        let name = INTERFACES.get(at).context("an interface")?;
        let host = &self.bed.relay;
        let is_there = before.link(name) != Link::Absent;
        match step {
            Step::Down(_) if is_there => host.ip(&format!("link set {name} down"))?,
            Step::Up(_) if is_there => self.up(at)?,
            Step::Flap(_) if is_there => {
                host.ip(&format!("link set {name} down"))?;
                self.up(at)?
            }
            Step::Delete(_) if is_there => host.ip(&format!("link delete {name}"))?,
            Step::Replug(_) if before.all_up() => {
                host.ip(&format!("link delete {name}"))?;
                self.plug(at)?;
                String::new()
            }
            Step::Create(_) if !is_there => {
                self.plug(at)?;
                String::new()
            }
            _ => String::new(),
        };
        Ok(())
    }

    /// Sets an interface up, with a link-local address, as it comes up elsewhere by itself: without
    /// one, the kernel asks for no neighbour over IPv6 that nothing is sent to.
    fn up(&self, at: usize) -> Result<String> {
        let near = &self.wires.get(at).context("a wire")?.near;
        let name = &near.interface;
        near.namespace.ip(&format!("link set {name} up"))?;
        let [_, b, c, d] = near.address.octets();
        near.namespace.ip(&format!(
            "-6 address replace fe80::{b}:{c}:{d}/64 dev {name} nodad"
        ))
    }

    fn change_route(&self, step: &Step, before: &Model) -> Result<()> {
        let host = &self.bed.relay;
        match step {
            Step::Lead(which) => {
                let by = LEAD.get(*which).context("an interface")?;
                if before.link(by) == Link::Up {
                    let via = self.wire(by)?.far.address;
                    host.ip(&format!("route replace {FAR}/32 via {via}"))?;
                }
            }
            _ if before.led.is_some() => _ = host.ip(&format!("route del {FAR}/32"))?,
            _ => {}
        }
        Ok(())
    }

    /// Makes a wire anew, with the names and addresses that it had.
    fn plug(&mut self, at: usize) -> Result<()> {
        let wire = self.wires.get_mut(at).context("a wire")?;
        let (near, far) = plug(&wire.near, &wire.far)?;
        *wire = Wire { near, far };
        Ok(())
    }

    /// The wire at an interface.
    pub fn wire(&self, interface: &str) -> Result<&Wire> {
        let position = INTERFACES.iter().position(|name| *name == interface);
        let wire = position.and_then(|at| self.wires.get(at));
        wire.with_context(|| format!("no wire at {interface}"))
    }

    fn index(&self, interface: &str) -> Result<u32> {
        Ok(self.wire(interface)?.near.index)
    }

    /// What must be seen if `model` is right.
    pub fn expected(&self, model: &Model) -> Result<Picture> {
        let active = model.active();
        let mut maps = KernelMaps::default();
        let (mut groups, mut attached) = (BTreeSet::new(), BTreeSet::new());
        let mut packet_sockets = Vec::new();
        let mut senders = BTreeSet::new();
        let mut picture = Picture::default();
        for rule in &active {
            let (entry, takes) = (rule.entry, rule.input);
            let input = self.index(takes.interface)?;
            let limited = universe::has_limit(entry.number, entry.form);
            let words = universe::matched(entry.number, entry.form);
            maps.flows.insert((input, takes.to, words), limited);
            maps.interfaces.insert(input);
            if takes.to.is_multicast() {
                groups.insert((takes.interface.to_owned(), takes.to));
            }
            for (out, interface) in rule.running() {
                let wire = self.wire(interface)?;
                maps.own.insert(kernel_maps::own_mac(wire.near.mac));
                if out.source == Source::Interface {
                    let source = wire.near.address_for(out.to);
                    maps.own.insert(kernel_maps::own_address(source));
                }
                senders.insert((
                    part(&active, takes.interface, self.backend),
                    wire.near.index,
                ));
                if !out.to.is_multicast() {
                    let what = next_hop_of(&universe::name(entry.number), out.to, out.port);
                    let host = match out.to == FAR {
                        true => wire.far.address.into(),
                        false => out.to,
                    };
                    let mac = (out.to != NOBODY).then(|| format_mac(wire.far.mac));
                    picture.insert(what, format!("{host} on {interface} is {mac:?}"));
                }
            }
        }
        for &input in &maps.interfaces {
            packet_sockets.push((input, Kind::Claim));
            match self.backend {
                Backend::Xdp => _ = attached.insert(input),
                Backend::IoUring => packet_sockets.push((input, Kind::Receives)),
            }
        }
        // Past the queueing discipline, and through it.
        let senders = senders.into_iter();
        packet_sockets.extend(senders.flat_map(|(_, index)| [(index, Kind::Sends); 2]));
        packet_sockets.sort_unstable();
        let inputs = active.iter().map(|rule| rule.input.interface);
        let parts: BTreeSet<_> = inputs
            .map(|input| part(&active, input, self.backend))
            .collect();
        for entry in &model.desired {
            let states = model.states(entry);
            let what = format!("status: rule {}", universe::name(entry.number));
            picture.insert(what, format!("{} {:?}", states.rule, states.outputs));
            let outputs = entry.outputs().into_iter().map(|out| out.interface);
            let named = outputs.filter(|interface| !interface.is_empty());
            for interface in named.chain([entry.input().interface]) {
                let what = format!("status: interface {interface}");
                picture.insert(what, "pending".to_owned());
            }
        }
        for interface in model.in_use() {
            let seen = format!("active {} {}", self.index(interface)?, self.backend.name());
            picture.insert(format!("status: interface {interface}"), seen);
        }
        let names = model.desired.iter().map(|one| universe::name(one.number));
        picture.insert(
            "status: order".into(),
            format!("{:?}", Vec::from_iter(names)),
        );
        picture.xdp_sockets = match self.backend {
            Backend::Xdp => maps.interfaces.len(),
            Backend::IoUring => 0,
        };
        picture.insert("workers".into(), parts.len().to_string());
        self.draw(
            &mut picture,
            &maps,
            &groups,
            &attached.into_iter().collect(),
            &packet_sockets,
        );
        Ok(picture)
    }

    /// What is seen.
    pub fn seen(&self) -> Result<Picture> {
        let mut picture = Picture::default();
        let status = self.relay.status()?;
        let list = |of: &serde_json::Value, key: &str| -> Result<Vec<serde_json::Value>> {
            let list = of[key].as_array().cloned();
            list.with_context(|| format!("no {key} in {of}"))
        };
        let text = |of: &serde_json::Value, key: &str| -> Result<String> {
            let text = of[key].as_str().map(str::to_owned);
            text.with_context(|| format!("no {key} in {of}"))
        };
        let mut names = Vec::new();
        for rule in list(&status, "rules")? {
            let name = text(&rule, "name")?;
            let outputs = list(&rule, "outputs")?;
            for output in &outputs {
                let hop = &output["next_hop"];
                if hop.is_null() {
                    continue;
                }
                let port = output["port"].to_string();
                let what = next_hop_of(&name, text(output, "group")?, port);
                let (host, interface) = (text(hop, "address")?, text(hop, "interface")?);
                let mac = hop["mac"].as_str();
                picture.insert(what, format!("{host} on {interface} is {mac:?}"));
            }
            let outputs = outputs.iter().map(|output| text(output, "state"));
            let outputs = outputs.collect::<Result<Vec<_>>>()?;
            let states = format!("{} {outputs:?}", text(&rule, "state")?);
            picture.insert(format!("status: rule {name}"), states);
            names.push(name);
        }
        picture.insert("status: order".into(), format!("{names:?}"));
        for interface in list(&status, "interfaces")? {
            let state = text(&interface, "state")?;
            let seen = match interface["index"].as_u64() {
                Some(index) => format!("{state} {index} {}", text(&interface, "backend")?),
                None => state,
            };
            let name = text(&interface, "name")?;
            picture.insert(format!("status: interface {name}"), seen);
        }
        let held = self.relay.held()?;
        let count = |of: &BTreeMap<String, usize>, key: &str| of.get(key).copied().unwrap_or(0);
        picture.xdp_sockets = count(&held.files, "socket:XDP");
        let workers = count(&held.threads, "relay-worker-");
        picture.insert("workers".into(), workers.to_string());
        let packet_sockets = self.bed.relay.packet_socket_list()?;
        let packet_sockets = packet_sockets.into_iter().map(|socket| {
            let kind = match socket.protocol {
                0 => Kind::Sends,
                CLAIM => Kind::Claim,
                _ => Kind::Receives,
            };
            (socket.interface, kind)
        });
        let mut packet_sockets: Vec<_> = packet_sockets.collect();
        packet_sockets.sort_unstable();
        let (maps, groups) = (
            KernelMaps::of(&self.relay)?,
            self.bed.relay.joined_groups()?,
        );
        self.draw(
            &mut picture,
            &maps,
            &groups,
            &self.relay.attached()?,
            &packet_sockets,
        );
        Ok(picture)
    }

    /// Waits until all that is seen is as `model` says, and fails if it is not in time.
    pub fn agree(&self, model: &Model) -> Result<()> {
        self.agree_within(model, AGREES)
    }

    /// The same with a time of its own.
    pub fn agree_within(&self, model: &Model, time: Duration) -> Result<()> {
        let expected = self.expected(model)?;
        let mut last = Vec::new();
        let came = eventually(time, || {
            last = match self.seen() {
                Ok(seen) => differences(&seen, &expected),
                Err(error) => vec![format!("{error:#}")],
            };
            last.is_empty()
        });
        ensure!(came.is_some(), "{}\n{}", last.join("\n"), self.relay.log());
        Ok(())
    }

    fn draw(
        &self,
        picture: &mut Picture,
        maps: &KernelMaps,
        groups: &BTreeSet<(String, std::net::IpAddr)>,
        attached: &Vec<u32>,
        packet_sockets: &Vec<(u32, Kind)>,
    ) {
        let parts = [
            ("kernel maps: flows", format!("{:?}", maps.flows)),
            ("kernel maps: interfaces", format!("{:?}", maps.interfaces)),
            ("kernel maps: own sources", format!("{:?}", maps.own)),
            ("joined groups", format!("{groups:?}")),
            ("attached programs", format!("{attached:?}")),
            ("packet sockets", format!("{packet_sockets:?}")),
        ];
        picture
            .parts
            .extend(parts.map(|(what, seen)| (what.to_owned(), seen)));
    }

    /// Ends the relay, and returns its report. Fails unless its counters agree as far as they must
    /// after changes, no chunk is missing, and nothing stays behind.
    pub fn stop(self) -> Result<Report> {
        end(self.relay, &self.bed, &self.wires)
    }
}

/// Starts a relay with the rules of `model`. Returns the path of its file as well.
fn begin(bed: &Testbed, backend: Backend, model: &Model) -> Result<(RelayProcess, PathBuf)> {
    let file = RuleFile::new(&file_of(&model.desired))?;
    let path = file.path().to_owned();
    Ok((RelayProcess::start_file(&bed.relay, backend, file)?, path))
}

/// See [`System::stop`].
fn end(relay: RelayProcess, bed: &Testbed, wires: &[Wire]) -> Result<Report> {
    let stopped = relay.stop()?;
    ensure!(stopped.status.success(), "{}", stopped.log);
    // A change of the relay's own is not taken for one of another process.
    ensure!(!stopped.log.contains("by force"), "{}", stopped.log);
    let report = stopped.report;
    if !report.workers.is_empty() {
        report.assert_no_chunk_missing();
    }
    assert_no_number_too_large(&report)?;
    nothing_stays(bed, wires)?;
    Ok(report)
}

/// Rules and interfaces that are gone are in the sums alone, and an output may be younger than its
/// rule, so parts may be less than the whole. They are never more.
fn assert_no_number_too_large(report: &Report) -> Result<()> {
    let interfaces = report.interfaces.iter();
    let redirected: u64 = interfaces
        .map(|one| report.filter(&one.name, "redirected"))
        .sum();
    let in_front = report.dropped_before_the_worker() + report.dropped_for("rx_dropped");
    ensure!(
        redirected <= report.packets_received + in_front,
        "{report:#?}"
    );
    ensure!(
        report.packets_matched <= report.packets_received,
        "{report:#?}"
    );
    let of_rules: u64 = report.rules.iter().map(|rule| rule.packets_matched).sum();
    ensure!(of_rules <= report.packets_matched, "{report:#?}");
    for rule in &report.rules {
        for output in &rule.outputs {
            let copies = output.packets_sent + output.dropped.values().sum::<u64>();
            ensure!(copies <= rule.packets_matched, "{output:?}: {report:#?}");
        }
    }
    Ok(())
}

/// Fails unless the relay's host is as it was without a relay.
fn nothing_stays(bed: &Testbed, wires: &[Wire]) -> Result<()> {
    ensure!(bed.relay.joined_groups()?.is_empty(), "groups are joined");
    bed.relay.wait_for_no_packet_socket()?;
    for wire in wires {
        let shown = bed.relay.ip("-details link show")?;
        ensure!(!shown.contains("xdp"), "{} {shown}", wire.near.interface);
    }
    Ok(())
}

/// What a packet socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Claim,
    Receives,
    Sends,
}

/// The worker that receives from `input`: on io_uring each input has its own, on XDP inputs that
/// rules connect share one. Its name is that of its first interface.
fn part(active: &[Active], input: &str, backend: Backend) -> String {
    let mut part = BTreeSet::from([input]);
    if backend == Backend::Xdp {
        // Every round adds an interface, or is the last.
        for _ in INTERFACES {
            for rule in active {
                let all: BTreeSet<_> = rule.interfaces().collect();
                if !part.is_disjoint(&all) {
                    part.extend(all);
                }
            }
        }
    }
    part.pop_first().unwrap_or_default().to_owned()
}

/// The line of a [`Picture`] that has the next hop of an output.
fn next_hop_of(rule: &str, to: impl Display, port: impl Display) -> String {
    format!("status: next hop of {rule} to {to}, port {port}")
}

/// The rules as the text of a file.
fn file_of(desired: &[Entry]) -> String {
    let entries = desired.iter();
    let texts = entries.map(|entry| universe::text(entry.number, entry.form, entry.enabled));
    texts.collect()
}

/// The parts that differ, one line each.
fn differences(seen: &Picture, expected: &Picture) -> Vec<String> {
    let names = seen.parts.keys().chain(expected.parts.keys());
    let none = || "nothing".to_owned();
    let differ = names
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter_map(|what| {
            let (is, must) = (seen.parts.get(what), expected.parts.get(what));
            (is != must).then(|| {
                let is = is.cloned().unwrap_or_else(none);
                let must = must.cloned().unwrap_or_else(none);
                format!("{what}:\n    is   {is}\n    must {must}")
            })
        });
    let mut differ: Vec<String> = differ.collect();
    let (is, must) = (seen.xdp_sockets, expected.xdp_sockets);
    if is != must {
        differ.push(format!("AF_XDP sockets: is {is}, must {must}"));
    }
    differ
}
