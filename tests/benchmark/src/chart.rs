//! Horizontal bars in groups, as SVG.
//!
//! The background is drawn, so that a chart reads the same on a light page and on a dark one.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
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
/// Pixels of a character of that size, on average over a name, at most. The width of a text is not
/// looked up in a font, because the reader's is not known: in DejaVu Sans, the widest of the usual
/// ones, the widest name needs 7.4.
const CHARACTER: f64 = 8.0;
/// Pixels of a legend's square with its gap to the name, and of the gap to the next entry.
const SQUARE: i32 = 16;
const ENTRY_GAP: i32 = 18;
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
    /// The colours and their names.
    pub series: Vec<Series>,
    /// From top to bottom.
    pub groups: Vec<Group>,
}

/// Bars of one colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// What the legend calls them; nothing if the labels of the groups say it already.
    pub name: Option<String>,
    /// Their colour.
    pub colour: RGBColor,
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
        let legend = self.legend();
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
                let colour = self.series.get(series).map_or(BLACK, |one| one.colour);
                area.draw(&Rectangle::new(corners, colour.filled()))?;
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
    fn legend(&self) -> Legend<'_> {
        let bars = self.groups.iter().flat_map(|group| &group.bars);
        let is_used = |series| bars.clone().any(|(used, _)| *used == series);
        let (left, top) = (12, TITLE as i32 + 2);
        let (mut x, mut y) = (left, top);
        let mut entries = Vec::new();
        for (at, Series { name, colour }) in self.series.iter().enumerate() {
            let Some(name) = name.as_deref().filter(|_| is_used(at)) else {
                continue;
            };
            let width = entry_width(name);
            if x > left && x + width > WIDTH as i32 {
                (x, y) = (left, y + LEGEND_LINE as i32);
            }
            let colour = *colour;
            entries.push(Entry { colour, name, x, y });
            x += width + ENTRY_GAP;
        }
        let height = match entries.is_empty() {
            true => 0,
            false => (y - top) as u32 + LEGEND_LINE + LEGEND_GAP,
        };
        Legend { entries, height }
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
    colour: RGBColor,
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
        for &Entry { colour, name, x, y } in &self.entries {
            let square = [(x, y), (x + 11, y + 11)];
            root.draw(&Rectangle::new(square, colour.filled()))?;
            root.draw(&Text::new(name.to_owned(), (x + SQUARE, y), text.clone()))?;
        }
        Ok(())
    }
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
    use crate::{contender::Contender, palette};

    fn chart(groups: Vec<Group>) -> Chart {
        Chart {
            title: "Rates".into(),
            axis: "kpps".into(),
            scale: Scale::Linear,
            series: ["relay", "socat"].map(series).to_vec(),
            groups,
        }
    }

    fn series(contender: &str) -> Series {
        Series {
            name: Some(contender.into()),
            colour: palette::of(contender).unwrap(),
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
            "Rates", "kpps", "relay", "socat", "one", "two", "1,234", "7.2", "500",
        ] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        // The background, two squares of the legend, three bars.
        assert_eq!(svg.matches("<rect").count(), 6);
    }

    /// A chart with a bar of each contender.
    fn of_every_contender() -> Chart {
        let contenders = Contender::all("relay".as_ref());
        let series: Vec<_> = contenders.iter().map(|one| series(&one.name())).collect();
        let bars = (0..series.len()).map(|series| (series, 1.0)).collect();
        let label = "all".into();
        Chart {
            series,
            ..chart(vec![Group { label, bars }])
        }
    }

    #[test]
    fn a_bar_has_the_colour_of_its_name_in_the_legend() {
        let svg = of_every_contender().svg().unwrap();
        for Series { colour, .. } in of_every_contender().series {
            let RGBColor(r, g, b) = colour;
            let fill = format!("fill=\"#{r:02X}{g:02X}{b:02X}\" stroke=\"none\"");
            let rectangles = svg.lines().filter(|line| line.starts_with("<rect"));
            let count = rectangles.filter(|line| line.contains(&fill)).count();
            assert_eq!(count, 2, "{fill}: {svg}");
        }
    }

    #[test]
    fn a_chart_whose_labels_say_it_all_has_no_legend() {
        let mut chart = of_every_contender();
        for series in &mut chart.series {
            series.name = None;
        }
        assert_eq!(chart.legend().height, 0);
        let bars = chart.series.len();
        assert_eq!(chart.svg().unwrap().matches("<rect").count(), 1 + bars);
    }

    #[test]
    fn the_names_in_a_legend_do_not_touch() {
        let chart = of_every_contender();
        let legend = chart.legend();
        assert_eq!(legend.entries.len(), chart.series.len());
        for (one, next) in legend.entries.iter().zip(&legend.entries[1..]) {
            let end = one.x + entry_width(one.name);
            assert!(end <= WIDTH as i32, "{} ends at {end}", one.name);
            let apart = next.y >= one.y + 15 || next.x >= end + ENTRY_GAP;
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
