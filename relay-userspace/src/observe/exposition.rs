//! Metrics as text, in the two formats that Prometheus reads: OpenMetrics 1.0
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), and the older one, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), for whoever does not ask for
//! the newer, as `promtool check metrics` does not.
//!
//! The formats differ in few places: where a counter's `_total` stands, and in the end. Crates that
//! write one of them keep values of their own, between which and the snapshot there could be a
//! difference.

use std::fmt::{self, Write as _};

/// Which of the formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Version 1.0.0.
    OpenMetrics,
    /// Version 0.0.4.
    Text,
}

impl Format {
    /// The type of a body in this format.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What the values of a family are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It never goes backwards while the relay runs.
    Counter,
    /// A value at one moment.
    Gauge,
    /// Facts, in labels.
    Info,
    /// How many of some values were not above each of some bounds.
    Histogram,
}

/// A name, what it means, and what its values are. A counter's name is without `_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// The name.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// One sentence, without a full stop.
    pub help: &'static str,
}

/// A text of metrics that grows family by family.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
}

/// Where the values of one family go.
#[derive(Debug)]
pub struct Samples<'e> {
    family: Family,
    exposition: &'e mut Exposition,
}

impl Exposition {
    /// A text without any.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            text: String::new(),
        }
    }

    /// Begins a family. Each may begin once.
    pub fn family(&mut self, family: Family) -> Samples<'_> {
        let Family { name, kind, help } = family;
        let (suffix, kind) = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Counter) => ("", "counter"),
            (Format::OpenMetrics, Kind::Info) => ("", "info"),
            (Format::Text, Kind::Counter) => ("_total", "counter"),
            (Format::Text, Kind::Info) => ("_info", "gauge"),
            (_, Kind::Gauge) => ("", "gauge"),
            (_, Kind::Histogram) => ("", "histogram"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name}{suffix} {help}");
        let _ = writeln!(self.text, "# TYPE {name}{suffix} {kind}");
        Samples {
            family,
            exposition: self,
        }
    }

    /// The whole text.
    #[must_use]
    pub fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Samples<'_> {
    /// Adds a value, told apart from the others of its family by its labels: names and values.
    pub fn add(&mut self, labels: &[(&str, &str)], value: impl fmt::Display) {
        let suffix = match self.family.kind {
            Kind::Counter => "_total",
            Kind::Gauge | Kind::Histogram => "",
            Kind::Info => "_info",
        };
        self.line(suffix, labels, value);
    }

    /// Adds a histogram, told apart from others by one label: the numbers of values up to each
    /// bound, in ascending order, how many values there are in all, and their sum.
    pub fn add_histogram(
        &mut self,
        label: (&str, &str),
        buckets: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        for (bound, number) in buckets {
            self.line("_bucket", &[label, ("le", &canonical(bound))], number);
        }
        self.line("_bucket", &[label, ("le", "+Inf")], count);
        self.line("_sum", &[label], sum);
        self.line("_count", &[label], count);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        let text = &mut self.exposition.text;
        text.push_str(self.family.name);
        text.push_str(suffix);
        for (at, (name, value)) in labels.iter().enumerate() {
            text.push(if at == 0 { '{' } else { ',' });
            text.push_str(name);
            text.push_str("=\"");
            push_escaped(text, value);
            text.push('"');
        }
        text.push_str(if labels.is_empty() { " " } else { "} " });
        let _ = writeln!(text, "{value}");
    }
}

/// A bound as OpenMetrics wants it written: a whole number with a fraction.
fn canonical(bound: f64) -> String {
    if bound >= 1.0 {
        return format!("{bound:.1}");
    }
    bound.to_string()
}

/// Appends the value of a label.
fn push_escaped(text: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        let (plain, special) = rest.split_at(at);
        text.push_str(plain);
        let mut others = special.chars();
        match others.next() {
            Some('\n') => text.push_str("\\n"),
            Some(other) => text.extend(['\\', other]),
            None => {}
        }
        rest = others.as_str();
    }
    text.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: Format) -> String {
        let mut exposition = Exposition::new(format);
        let family = |name, kind| Family {
            name,
            kind,
            help: "what it is",
        };
        let mut counter = exposition.family(family("relay_a", Kind::Counter));
        counter.add(&[("rule", "a \"b\"\\\n"), ("x", "é")], 7);
        let mut gauge = exposition.family(family("relay_b", Kind::Gauge));
        gauge.add(&[], 0.5);
        let mut info = exposition.family(family("relay_c", Kind::Info));
        info.add(&[("version", "1")], 1);
        let mut histogram = exposition.family(family("relay_d", Kind::Histogram));
        let buckets = [(1e-6, 0), (0.5, 3), (1.0, 3)].into_iter();
        histogram.add_histogram(("interface", "in0"), buckets, 4, 7.25);
        exposition.end()
    }

    #[test]
    fn both_formats_are_as_their_specifications_say() {
        let openmetrics = "\
# HELP relay_a what it is
# TYPE relay_a counter
relay_a_total{rule=\"a \\\"b\\\"\\\\\\n\",x=\"é\"} 7
# HELP relay_b what it is
# TYPE relay_b gauge
relay_b 0.5
# HELP relay_c what it is
# TYPE relay_c info
relay_c_info{version=\"1\"} 1
# HELP relay_d what it is
# TYPE relay_d histogram
relay_d_bucket{interface=\"in0\",le=\"0.000001\"} 0
relay_d_bucket{interface=\"in0\",le=\"0.5\"} 3
relay_d_bucket{interface=\"in0\",le=\"1.0\"} 3
relay_d_bucket{interface=\"in0\",le=\"+Inf\"} 4
relay_d_sum{interface=\"in0\"} 7.25
relay_d_count{interface=\"in0\"} 4
# EOF
";
        assert_eq!(text(Format::OpenMetrics), openmetrics);
        let older = "\
# HELP relay_a_total what it is
# TYPE relay_a_total counter
relay_a_total{rule=\"a \\\"b\\\"\\\\\\n\",x=\"é\"} 7
# HELP relay_b what it is
# TYPE relay_b gauge
relay_b 0.5
# HELP relay_c_info what it is
# TYPE relay_c_info gauge
relay_c_info{version=\"1\"} 1
# HELP relay_d what it is
# TYPE relay_d histogram
relay_d_bucket{interface=\"in0\",le=\"0.000001\"} 0
relay_d_bucket{interface=\"in0\",le=\"0.5\"} 3
relay_d_bucket{interface=\"in0\",le=\"1.0\"} 3
relay_d_bucket{interface=\"in0\",le=\"+Inf\"} 4
relay_d_sum{interface=\"in0\"} 7.25
relay_d_count{interface=\"in0\"} 4
";
        assert_eq!(text(Format::Text), older);
    }
}
