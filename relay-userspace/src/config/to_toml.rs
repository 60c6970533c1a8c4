//! Rules as the text of a rule file: reading it gives the same rules.

use std::fmt::{self, Write as _};

use super::rules::{
    Header, Health, Input, InterfaceOptions, Limit, Listen, Match, Metrics, Offloads, Output,
    OutputVlan, PortMatch, Rule, Rules, Source, Transmit, Ttl, Vlan, Written,
};

/// The text of a rule file with these rules; defaults are left out. [`super::parse`] makes the same
/// rules of it.
#[must_use]
pub fn to_toml(rules: &Rules) -> String {
    let mut text = String::new();
    if rules.rules.is_empty() {
        text.push_str("rules = []\n\n");
    }
    if let Some(metrics) = &rules.metrics {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", MetricsTable(metrics));
    }
    for rule in &rules.rules {
        let _ = writeln!(text, "{}", RuleTable(rule));
    }
    for options in &rules.interfaces {
        let _ = writeln!(text, "{}", InterfaceTable(options));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

struct RuleTable<'r>(&'r Rule);

impl fmt::Display for RuleTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule {
            name,
            enabled,
            input,
            limit,
            health,
            outputs,
        } = self.0;
        let Health { silence, monitor } = health;
        let Input {
            interface,
            matches,
            join,
            local,
        } = input;
        let Match {
            group,
            ports,
            sources,
            vlan,
        } = matches;
        writeln!(f, "[[rules]]\nname = {}", Text(name))?;
        if !enabled {
            writeln!(f, "enabled = false")?;
        }
        if let Some(silence) = silence {
            writeln!(f, "silence = \"{}\"", Written(*silence))?;
        }
        if let Some(monitor) = monitor {
            writeln!(f, "monitor = {monitor}")?;
        }
        let interface = Text(interface);
        let port = Port(*ports);
        let is_unicast = matches.is_unicast();
        let to = if is_unicast { "address" } else { "group" };
        write!(
            f,
            "input = {{ interface = {interface}, {to} = \"{group}\", port = {port}"
        )?;
        match sources.as_slice() {
            [] => {}
            [source] => write!(f, ", source = \"{source}\"")?,
            [first, others @ ..] => {
                write!(f, ", source = [\"{first}\"")?;
                for source in others {
                    write!(f, ", \"{source}\"")?;
                }
                f.write_str("]")?;
            }
        }
        match vlan {
            Vlan::Untagged => {}
            Vlan::Tag(vlan) => write!(f, ", vlan = {vlan}")?,
            Vlan::Double(outer, inner) => write!(f, ", vlan = [{outer}, {inner}]")?,
        }
        if !join && !is_unicast {
            f.write_str(", join = false")?;
        }
        if *local {
            f.write_str(", local = true")?;
        }
        if let Some(Limit {
            packets_per_second,
            burst,
        }) = limit
        {
            write!(
                f,
                ", limit = {{ packets_per_second = {packets_per_second}, burst = {burst} }}"
            )?;
        }
        writeln!(f, " }}\noutputs = [")?;
        for output in outputs {
            writeln!(f, "  {{ {} }},", OutputTable(output))?;
        }
        writeln!(f, "]")
    }
}

/// The inside of an output's inline table.
struct OutputTable<'r>(&'r Output);

impl fmt::Display for OutputTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Output {
            interface,
            group,
            port,
            source,
            header,
            mark,
        } = self.0;
        let Header {
            ttl,
            source_port,
            dscp,
            vlan,
            pcp,
        } = header;
        if let Some(interface) = interface {
            write!(f, "interface = {}, ", Text(interface))?;
        }
        let to = if self.0.is_unicast() {
            "address"
        } else {
            "group"
        };
        write!(f, "{to} = \"{group}\", port = {}", Port(*port))?;
        match ttl {
            Ttl::Auto => {}
            Ttl::Decrement => write!(f, ", ttl = \"{ttl}\"")?,
            Ttl::Set(_) => write!(f, ", ttl = {ttl}")?,
        }
        if let Some(dscp) = dscp {
            write!(f, ", dscp = {dscp}")?;
        }
        match vlan {
            OutputVlan::Untagged => {}
            OutputVlan::Keep => f.write_str(", vlan = \"keep\"")?,
            OutputVlan::Tag(vlan) => write!(f, ", vlan = {vlan}")?,
            OutputVlan::Double(outer, inner) => write!(f, ", vlan = [{outer}, {inner}]")?,
        }
        if let Some(pcp) = pcp {
            write!(f, ", pcp = {pcp}")?;
        }
        match source {
            Source::Interface => {}
            Source::Keep | Source::Address(_) => write!(f, ", source = \"{source}\"")?,
        }
        if let Some(port) = source_port {
            write!(f, ", source_port = {port}")?;
        }
        if let Some(mark) = mark {
            write!(f, ", mark = {mark}")?;
        }
        Ok(())
    }
}

struct InterfaceTable<'r>(&'r InterfaceOptions);

impl fmt::Display for InterfaceTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InterfaceOptions {
            name,
            queues,
            cpus,
            transmit,
            offloads,
        } = self.0;
        writeln!(f, "[[interfaces]]\nname = {}", Text(name))?;
        for (key, numbers) in [("queues", queues), ("cpus", cpus)] {
            if let Some(numbers) = numbers {
                writeln!(f, "{key} = {numbers:?}")?;
            }
        }
        match transmit {
            Transmit::Auto => {}
            Transmit::Xsk | Transmit::Segmented => writeln!(f, "transmit = \"{transmit}\"")?,
        }
        match offloads {
            Offloads::Keep => Ok(()),
            Offloads::Manage => writeln!(f, "offloads = \"{offloads}\""),
        }
    }
}

struct MetricsTable<'r>(&'r Metrics);

impl fmt::Display for MetricsTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Metrics { listen, outputs } = self.0;
        let listen = match listen {
            Listen::Tcp(address) => address.to_string(),
            Listen::Unix(path) => path.to_string_lossy().into_owned(),
        };
        writeln!(f, "[metrics]\nlisten = {}", Text(&listen))?;
        if !outputs {
            writeln!(f, "outputs = false")?;
        }
        Ok(())
    }
}

/// The value of `port`.
struct Port(PortMatch);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            PortMatch::One(port) => write!(f, "{port}"),
            ports @ (PortMatch::Range(..) | PortMatch::Any) => write!(f, "\"{ports}\""),
        }
    }
}

/// A basic string of TOML.
struct Text<'t>(&'t str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}
