//! Draws the screens of a recording as one SVG that plays them, again and again.
//!
//! A row that stays the same over several screens is drawn once, and shown for as long as it
//! stayed. Where nothing is animated, as for readers who want less motion, the picture is the last
//! screen.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    time::Duration,
};

use super::recording::Screen;

/// Pixels of a character and of a row, of the title bar and of the margin around the text.
const CHARACTER: f64 = 8.4;
const ROW: f64 = 19.0;
const TITLE: f64 = 30.0;
const MARGIN: f64 = 14.0;
/// How long the last screen stays before the first one comes again.
const REST: Duration = Duration::from_secs(8);

/// The picture of `screens`, in their order, under a title.
pub fn draw(title: &str, screens: &[Screen]) -> String {
    let rows = screens.iter().flat_map(|screen| &screen.rows);
    let columns = rows.map(|row| row.chars().count()).max().unwrap_or(0);
    let most = screens.iter().map(|screen| screen.rows.len()).max();
    let width = columns as f64 * CHARACTER + 2.0 * MARGIN;
    let height = TITLE + most.unwrap_or(0) as f64 * ROW + 2.0 * MARGIN;
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = write_all(&mut svg, title, screens, (width, height));
    svg
}

fn write_all(
    svg: &mut String,
    title: &str,
    screens: &[Screen],
    (width, height): (f64, f64),
) -> fmt::Result {
    let lines = lines(screens);
    writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}">
<title>{}</title>
<style>
text {{ font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #e6e6e6; white-space: pre }}
.title {{ fill: #9a9a9a }}
.past {{ visibility: hidden }}"##,
        escaped(title)
    )?;
    write_animations(svg, &lines, screens)?;
    writeln!(
        svg,
        r##"@media (prefers-reduced-motion: reduce) {{ text {{ animation: none !important }} }}
</style>
<rect width="100%" height="100%" rx="8" fill="#16191d"/>
<path d="M0 {TITLE}H{width:.0}" stroke="#333"/>
<text class="title" x="{MARGIN}" y="20">{}</text>"##,
        escaped(title)
    )?;
    for line in &lines {
        line.write(svg, screens.len())?;
    }
    writeln!(svg, "</svg>")
}

/// One row of text, and the screens that show it.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    row: usize,
    text: &'a str,
    first: usize,
    /// The first screen without it, or the number of screens.
    end: usize,
}

/// All rows that are not empty, each once for as long as it stays the same.
fn lines(screens: &[Screen]) -> Vec<Line<'_>> {
    let most = screens.iter().map(|screen| screen.rows.len()).max();
    let mut lines: Vec<Line<'_>> = Vec::new();
    for row in 0..most.unwrap_or(0) {
        for (at, screen) in screens.iter().enumerate() {
            let text = screen.rows.get(row).map_or("", String::as_str);
            match lines.last_mut() {
                Some(last) if last.row == row && last.end == at && last.text == text => {
                    last.end = at + 1;
                }
                _ => lines.push(Line {
                    row,
                    text,
                    first: at,
                    end: at + 1,
                }),
            }
        }
    }
    lines.retain(|line| !line.text.is_empty());
    lines
}

/// One animation for each stretch of screens that some line is shown in.
fn write_animations(svg: &mut String, lines: &[Line<'_>], screens: &[Screen]) -> fmt::Result {
    let start = screens.first().map_or(Duration::ZERO, |screen| screen.at);
    let end = screens.last().map_or(Duration::ZERO, |screen| screen.at);
    let whole = (end - start + REST).as_secs_f64();
    let at = |screen: usize| {
        let at = screens.get(screen).map_or(end + REST, |screen| screen.at);
        (at - start).as_secs_f64() / whole * 100.0
    };
    let stretches: BTreeSet<_> = lines.iter().map(|line| (line.first, line.end)).collect();
    for (first, end) in stretches {
        if (first, end) == (0, screens.len()) {
            continue;
        }
        write!(svg, "@keyframes k{first}-{end} {{ ")?;
        if first > 0 {
            write!(svg, "0% {{ visibility: hidden }} ")?;
        }
        write!(svg, "{:.2}% {{ visibility: visible }} ", at(first))?;
        if end < screens.len() {
            write!(svg, "{:.2}% {{ visibility: hidden }} ", at(end))?;
        }
        writeln!(
            svg,
            "}}\n.s{first}-{end} {{ animation: k{first}-{end} {whole:.2}s step-end infinite }}"
        )?;
    }
    Ok(())
}

impl Line<'_> {
    fn write(&self, svg: &mut String, screens: usize) -> fmt::Result {
        let text = self.text.trim_start();
        let indent = self.text.chars().count() - text.chars().count();
        let x = MARGIN + indent as f64 * CHARACTER;
        let y = TITLE + MARGIN + (self.row as f64 + 0.75) * ROW;
        // Columns stay columns whatever font the reader has.
        let length = text.chars().count() as f64 * CHARACTER;
        let class = match (self.first, self.end) {
            (0, end) if end == screens => String::new(),
            (first, end) if end == screens => format!(r#" class="s{first}-{end}""#),
            (first, end) => format!(r#" class="past s{first}-{end}""#),
        };
        writeln!(
            svg,
            r#"<text{class} x="{x:.1}" y="{y:.1}" textLength="{length:.1}" xml:space="preserve">{}</text>"#,
            escaped(text)
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screens() -> Vec<Screen> {
        let screen = |seconds, rows: &[&str]| Screen {
            at: Duration::from_secs(seconds),
            rows: rows.iter().map(|&row| row.to_owned()).collect(),
        };
        vec![
            screen(1, &["a <b> & c"]),
            screen(2, &["a <b> & c", "", "  count 1"]),
            screen(3, &["a <b> & c", "", "  count 2"]),
        ]
    }

    #[test]
    fn a_row_is_drawn_once_for_as_long_as_it_stays() {
        let screens = screens();
        let line = |row, text, first, end| Line {
            row,
            text,
            first,
            end,
        };
        let expected = [
            line(0, "a <b> & c", 0, 3),
            line(2, "  count 1", 1, 2),
            line(2, "  count 2", 2, 3),
        ];
        assert_eq!(lines(&screens), expected);
    }

    #[test]
    fn without_animation_the_picture_is_the_last_screen() {
        let svg = draw("demo", &screens());
        let hidden = |text: &str| {
            let line = svg.lines().find(|line| line.contains(text)).unwrap();
            line.contains("past")
        };
        assert!(!hidden(">a &lt;b&gt; &amp; c<"), "{svg}");
        assert!(hidden(">count 1<"), "{svg}");
        assert!(!hidden(">count 2<"), "{svg}");
    }

    #[test]
    fn what_came_and_went_is_shown_from_its_screen_to_the_next() {
        let svg = draw("demo", &screens());
        // Of ten seconds the first screen is one, the second one, and the last one stays for eight.
        let shown = "@keyframes k1-2 { 0% { visibility: hidden } 10.00% { visibility: visible } \
                     20.00% { visibility: hidden } }";
        assert!(svg.contains(shown), "{svg}");
        assert!(svg.contains(".s1-2 { animation: k1-2 10.00s step-end infinite }"));
    }
}
