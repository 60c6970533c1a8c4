//! Soak runs as a picture: what the relay held, over time, one column for each run.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use plotters::{coord::Shift, prelude::*};
use relay_tests::soak::{Record, Sample};

use crate::palette;

/// Pixels of a panel.
const WIDTH: u32 = 480;
const HEIGHT: u32 = 130;
/// Of a column's head.
const TITLE: u32 = 46;
const LEFT: u32 = 60;
const AXIS: u32 = 22;
/// Font sizes are in a unit of which 5 are about 4 pixels.
const SMALL: i32 = 14;

/// One panel: its name and unit, and the number that it shows.
type Panel = (&'static str, fn(&Sample) -> Option<f64>);

/// From top to bottom.
const PANELS: [Panel; 5] = [
    ("memory, MiB", |one| Some(one.resident_kib as f64 / 1024.0)),
    ("locked memory, KiB", |one| Some(one.locked_kib as f64)),
    ("descriptors", |one| Some(one.descriptors as f64)),
    ("threads", |one| Some(one.threads as f64)),
    ("map entries", |one| {
        one.map_entries.map(|count| count as f64)
    }),
];

/// Writes the picture of `records` to a file.
///
/// # Errors
///
/// When there is nothing to show, or the file cannot be written.
pub fn write(records: &[Record], path: &Path) -> Result<()> {
    let svg = svg(records).with_context(|| format!("drawing {}", path.display()))?;
    std::fs::write(path, svg).with_context(|| format!("writing {}", path.display()))
}

/// Its text.
///
/// # Errors
///
/// When there is nothing to show.
pub fn svg(records: &[Record]) -> Result<String> {
    ensure!(!records.is_empty(), "there is no run");
    let columns = records.len() as u32;
    let size = (columns * WIDTH, TITLE + PANELS.len() as u32 * HEIGHT);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
        for (area, record) in root.split_evenly((1, records.len())).iter().zip(records) {
            column(area, record).map_err(|error| anyhow!("{error}"))?;
        }
    }
    Ok(svg)
}

fn column<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    record: &Record,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let text = |size| ("sans-serif", size).into_font().color(&BLACK);
    let lives = match record.lives.len() {
        1 => "one process".to_owned(),
        count => format!("{count} processes, one after the other"),
    };
    let title = format!(
        "{}: {:.0} minutes, {lives}",
        record.backend.name(),
        record.seconds / 60.0
    );
    area.draw(&Text::new(title, (12, 8), text(18)))?;
    let legend = "line: every 2 seconds; dots: all interfaces there, the same rules";
    area.draw(&Text::new(legend, (12, 28), text(SMALL - 1)))?;
    let (_, rest) = area.split_vertically(TITLE);
    for (panel, (name, value)) in rest.split_evenly((PANELS.len(), 1)).iter().zip(PANELS) {
        draw(panel, record, name, value)?;
    }
    Ok(())
}

fn draw<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    record: &Record,
    name: &str,
    value: fn(&Sample) -> Option<f64>,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let [.., light, dark] = palette::PERCENTILES;
    let point = |sample: &Sample| Some((sample.at / 60.0, value(sample)?));
    let samples = || record.lives.iter().flat_map(|life| &life.samples);
    let most = samples().filter_map(value).fold(1.0, f64::max);
    let text = |size| ("sans-serif", size).into_font().color(&BLACK);
    let minutes = (record.seconds / 60.0).max(0.1);
    let mut chart = ChartBuilder::on(area)
        .set_label_area_size(LabelAreaPosition::Left, LEFT)
        .set_label_area_size(LabelAreaPosition::Bottom, AXIS)
        .margin_right(14)
        .margin_top(18)
        .build_cartesian_2d(0.0..minutes, 0.0..most * 1.1)?;
    chart
        .configure_mesh()
        .x_labels(7)
        .y_labels(4)
        .max_light_lines(0)
        .x_label_formatter(&|at| format!("{at:.0} min"))
        .y_label_formatter(&|at| format!("{at:.0}"))
        .label_style(text(SMALL - 1))
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
    area.draw(&Text::new(name.to_owned(), (LEFT as i32, 2), text(SMALL)))?;
    for life in &record.lives {
        let began = life.began / 60.0;
        let start = [(began, 0.0), (began, most * 1.1)];
        let start = PathElement::new(start, RGBColor(200, 200, 200));
        chart.draw_series([start])?;
        let line: Vec<_> = life.samples.iter().filter_map(point).collect();
        chart.draw_series([PathElement::new(line, light.stroke_width(1))])?;
        let at_home = life.samples.iter().filter(|sample| sample.at_home);
        let dots = at_home.filter_map(point);
        chart.draw_series(dots.map(|at| Circle::new(at, 2, dark.filled())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use relay_tests::{backend::Backend, soak::Life};

    use super::*;

    #[test]
    fn every_moment_at_home_is_a_dot_in_every_panel() {
        let sample = |at: u32| Sample {
            at: f64::from(at),
            resident_kib: 20_000,
            locked_kib: 0,
            descriptors: 40,
            threads: 5,
            map_entries: (at != 3).then_some(30),
            at_home: at.is_multiple_of(2),
        };
        let record = Record {
            backend: Backend::IoUring,
            seed: 1,
            minutes: 1.0,
            seconds: 60.0,
            kernel: "6.18".into(),
            actions: Default::default(),
            frames: Default::default(),
            settled: 7,
            lives: vec![Life {
                began: 0.0,
                ended: "SIGTERM".into(),
                samples: (0..10).map(sample).collect(),
            }],
            verdicts: Vec::new(),
            failure: None,
        };
        let svg = svg(&[record.clone(), record]).unwrap();
        assert_eq!(svg.matches("<circle").count(), 2 * 5 * 5);
        for text in ["io-uring: 1 minutes, one process", "memory, MiB", "threads"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
    }

    #[test]
    fn a_picture_of_nothing_is_an_error() {
        assert!(svg(&[]).is_err());
    }
}
