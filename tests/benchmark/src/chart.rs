//! Horizontal bars in groups, as SVG.
//!
//! The background is drawn, so that a chart reads the same on a light page and on a dark one.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

const WIDTH: u32 = 960;
/// Pixels of a bar with its share of the gap to the next.
const BAR: u32 = 15;
const LEFT: u32 = 190;
/// For the number behind the longest bar.
const RIGHT: u32 = 70;
const TITLE: u32 = 36;
/// Of each line of the legend.
const LEGEND_LINE: u32 = 19;
/// Below the legend.
const LEGEND_GAP: u32 = 7;
const AXIS: u32 = 48;
const BOTTOM: u32 = 8;
/// Font sizes are in a unit of which 5 are about 4 pixels.
const SMALL: i32 = 15;
/// Pixels of a wide character of that size. The width of a text is not looked up in a font; this is
/// the most.
const CHARACTER: f64 = 7.6;
/// Pixels of a legend's square, its gap to the name, and of the gap to the next entry.
const SQUARE: i32 = 15;
const ENTRY_GAP: i32 = 16;
/// One colour for each series, also for readers who cannot tell red from green (Okabe and Ito, then
/// some dark and light ones). The first is the relay's.
const COLOURS: [RGBColor; 12] = [
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(120, 94, 60),
    RGBColor(110, 110, 110),
    RGBColor(0, 0, 0),
    RGBColor(240, 228, 66),
    RGBColor(60, 20, 110),
    RGBColor(190, 190, 190),
];

/// What the lengths of bars mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Twice as long is twice as much.
    Linear,
    /// From 1 on, each power of ten is as long as the one before.
    Log,
}

/// A chart.
#[derive(Debug)]
pub struct Chart {
    /// The text above it.
    pub title: String,
    /// The values' name and unit.
    pub axis: String,
    /// How values become lengths.
    pub scale: Scale,
    /// The names of the colours.
    pub series: Vec<String>,
    /// From top to bottom.
    pub groups: Vec<Group>,
}

/// A group of bars.
#[derive(Debug)]
pub struct Group {
    /// What it is.
    pub label: String,
    /// For each bar a position in [`Chart::series`] and a value.
    pub bars: Vec<(usize, f64)>,
}

impl Chart {
    /// Writes it to a file.
    ///
    /// # Errors
    ///
    /// When there is nothing to show, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let svg = self
            .svg()
            .with_context(|| format!("drawing {}", path.display()))?;
        std::fs::write(path, svg).with_context(|| format!("writing {}", path.display()))
    }

    /// Its text.
    ///
    /// # Errors
    ///
    /// When there is nothing to show.
    pub fn svg(&self) -> Result<String> {
        let values = self.groups.iter().flat_map(|group| &group.bars);
        let most = values.map(|(_, value)| self.length(*value));
        let most = most
            .max_by(f64::total_cmp)
            .context("the results have no such number")?;
        let rows = self.rows();
        let legend = self.legend()?;
        let height = TITLE + legend.height + AXIS + BOTTOM + rows * BAR;
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
            self.draw(&root, &legend, most, rows)
                .map_err(|error| anyhow!("{error}"))?;
        }
        Ok(svg)
    }

    /// Bars, and one row of space for each group.
    fn rows(&self) -> u32 {
        let bars = self.groups.iter().map(|group| group.bars.len() as u32 + 1);
        bars.sum()
    }

    fn length(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(1.0).log10(),
        }
    }

    fn draw<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, plotters::coord::Shift>,
        legend: &Legend<'_>,
        most: f64,
        rows: u32,
    ) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
        root.fill(&WHITE)?;
        let text = |size| ("sans-serif", size).into_font().color(&BLACK);
        root.draw(&Text::new(self.title.clone(), (12, 12), text(21)))?;
        legend.draw(root, &text(SMALL))?;
        let (_, rest) = root.split_vertically(TITLE + legend.height);
        let mut chart = ChartBuilder::on(&rest)
            .set_label_area_size(LabelAreaPosition::Left, LEFT)
            .set_label_area_size(LabelAreaPosition::Bottom, AXIS)
            .margin_right(RIGHT)
            .margin_bottom(BOTTOM)
            // The first row is at the top.
            .build_cartesian_2d(0.0..most, f64::from(rows)..0.0)?;
        let tick = |at: &f64| match self.scale {
            Scale::Linear => number(*at),
            Scale::Log => number(10f64.powf(*at)),
        };
        let ticks = match self.scale {
            Scale::Linear => 8,
            Scale::Log => most.ceil() as usize + 1,
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .x_labels(ticks)
            .max_light_lines(0)
            .x_label_formatter(&tick)
            .x_desc(self.axis.clone())
            .label_style(text(SMALL))
            .axis_desc_style(text(SMALL + 1))
            .bold_line_style(RGBColor(225, 225, 225))
            .draw()?;
        let (left, middle) = (Pos::new(HPos::Left, VPos::Center), VPos::Center);
        let right = Pos::new(HPos::Right, middle);
        let area = chart.plotting_area();
        let mut row = 0.5;
        for group in &self.groups {
            let centre = row + group.bars.len() as f64 / 2.0;
            let (x, y) = area.map_coordinate(&(0.0, centre));
            let label = Text::new(group.label.clone(), (x - 8, y), text(SMALL).pos(right));
            root.draw(&label)?;
            for &(series, value) in &group.bars {
                let length = self.length(value);
                let corners = [(0.0, row + 0.1), (length, row + 0.9)];
                area.draw(&Rectangle::new(corners, colour(series).filled()))?;
                let (x, y) = area.map_coordinate(&(length, row + 0.5));
                let value = Text::new(number(value), (x + 4, y), text(SMALL - 1).pos(left));
                root.draw(&value)?;
                row += 1.0;
            }
            row += 1.0;
        }
        Ok(())
    }

    /// The places of the names of all series that have a bar.
    fn legend(&self) -> Result<Legend<'_>> {
        ensure!(
            self.series.len() <= COLOURS.len(),
            "there are {} series and {} colours: add some to COLOURS",
            self.series.len(),
            COLOURS.len()
        );
        let bars = self.groups.iter().flat_map(|group| &group.bars);
        let is_used = |series| bars.clone().any(|(used, _)| *used == series);
        let (left, top) = (12, TITLE as i32 + 2);
        let (mut x, mut y) = (left, top);
        let mut entries = Vec::new();
        for (series, name) in self.series.iter().enumerate() {
            if !is_used(series) {
                continue;
            }
            let width = entry_width(name);
            if x > left && x + width > WIDTH as i32 {
                (x, y) = (left, y + LEGEND_LINE as i32);
            }
            entries.push(Entry { series, name, x, y });
            x += width + ENTRY_GAP;
        }
        Ok(Legend {
            entries,
            height: (y - top) as u32 + LEGEND_LINE + LEGEND_GAP,
        })
    }
}

/// What the colours mean, laid out in lines.
struct Legend<'a> {
    entries: Vec<Entry<'a>>,
    /// Pixels of all lines.
    height: u32,
}

/// One name, with its place in pixels.
struct Entry<'a> {
    series: usize,
    name: &'a str,
    x: i32,
    y: i32,
}

/// Pixels of a name with its square, at most.
fn entry_width(name: &str) -> i32 {
    SQUARE + (name.chars().count() as f64 * CHARACTER) as i32
}

impl Legend<'_> {
    fn draw<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, plotters::coord::Shift>,
        text: &TextStyle<'_>,
    ) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
        for &Entry { series, name, x, y } in &self.entries {
            let square = [(x, y), (x + 11, y + 11)];
            root.draw(&Rectangle::new(square, colour(series).filled()))?;
            root.draw(&Text::new(name.to_owned(), (x + SQUARE, y), text.clone()))?;
        }
        Ok(())
    }
}

fn colour(series: usize) -> RGBColor {
    COLOURS.get(series).copied().unwrap_or(BLACK)
}

/// A number with three digits at least, in groups of thousands.
fn number(value: f64) -> String {
    if value < 100.0 {
        let text = format!("{value:.1}");
        return text.trim_end_matches(".0").to_owned();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Contender;

    fn chart(groups: Vec<Group>) -> Chart {
        Chart {
            title: "Rates".into(),
            axis: "kpps".into(),
            scale: Scale::Linear,
            series: vec!["relay".into(), "other".into()],
            groups,
        }
    }

    #[test]
    fn every_bar_and_every_name_is_drawn() {
        let group = |label: &str, bars| Group {
            label: label.into(),
            bars,
        };
        let groups = vec![
            group("one", vec![(0, 1234.5), (1, 7.25)]),
            group("two", vec![(1, 500.0)]),
        ];
        let svg = chart(groups).svg().unwrap();
        for text in [
            "Rates", "kpps", "relay", "other", "one", "two", "1,234", "7.2", "500",
        ] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        // The background, two squares of the legend, three bars.
        assert_eq!(svg.matches("<rect").count(), 6);
    }

    /// A chart with a bar of each contender.
    fn of_every_contender() -> Chart {
        let contenders = Contender::all("relay".as_ref());
        let series: Vec<String> = contenders.iter().map(Contender::name).collect();
        let bars = (0..series.len()).map(|series| (series, 1.0)).collect();
        let label = "all".into();
        Chart {
            series,
            ..chart(vec![Group { label, bars }])
        }
    }

    #[test]
    fn no_two_contenders_have_one_colour() {
        let chart = of_every_contender();
        let colours = (0..chart.series.len()).map(|series| {
            let RGBColor(r, g, b) = colour(series);
            (r, g, b)
        });
        let different: std::collections::HashSet<_> = colours.collect();
        assert_eq!(different.len(), chart.series.len());
        let series = vec!["one".to_owned(); COLOURS.len() + 1];
        assert!(Chart { series, ..chart }.svg().is_err());
    }

    #[test]
    fn the_names_in_a_legend_do_not_touch() {
        let chart = of_every_contender();
        let legend = chart.legend().unwrap();
        assert_eq!(legend.entries.len(), chart.series.len());
        for (one, next) in legend.entries.iter().zip(&legend.entries[1..]) {
            let end = one.x + entry_width(one.name);
            assert!(end <= WIDTH as i32, "{} ends at {end}", one.name);
            let apart = next.y >= one.y + 15 || next.x >= end + 10;
            assert!(apart, "{} and {}", one.name, next.name);
        }
        let last = legend.entries.last().unwrap();
        assert!(last.y + 12 <= (TITLE + legend.height) as i32);
    }

    #[test]
    fn a_chart_of_nothing_is_an_error() {
        assert!(chart(Vec::new()).svg().is_err());
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(100.4), "100");
        assert_eq!(number(38.04), "38");
    }
}
