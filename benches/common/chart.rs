//! A bar chart as an SVG, for the documents: groups of bars around the value 1. It writes no file.
#![expect(unreachable_pub, reason = "a module of a benchmark is private, although its items are `pub`")]

use std::fmt::Write as _;

/// Bars that belong together.
pub struct Group {
    /// The text above them.
    pub title: String,
    /// The name and the value of each bar.
    pub bars: Vec<(String, f64)>,
}

/// The start of the bars, and the length of a value of 1, in pixels.
const BEGIN: f64 = 330.0;
const UNIT: f64 = 120.0;
/// Longer bars are cut off; their value is beside them.
const LONGEST: f64 = 3.0;
/// The height of a line, in pixels.
const LINE: usize = 22;

/// Returns the chart.
pub fn bars(title: &str, groups: &[Group]) -> String {
    let lines: usize = groups.iter().map(|group| group.bars.len() + 2).sum();
    let height = (lines + 2) * LINE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"760\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"{LINE}\" font-size=\"16\" font-weight=\"bold\">{title}</text>\n"
    );
    let one = BEGIN + UNIT;
    let _ = writeln!(svg, "<path d=\"M{one} {LINE}V{height}\" stroke=\"#999\" stroke-dasharray=\"3 3\"/>");
    let mut y = 2 * LINE;
    for group in groups {
        y += LINE / 2;
        let _ = writeln!(svg, "<text x=\"12\" y=\"{y}\" font-weight=\"bold\">{}</text>", group.title);
        for (name, value) in &group.bars {
            y += LINE;
            let fill = if name.starts_with("refresh") { "#2a7f62" } else { "#8a8f98" };
            let length = value.min(LONGEST) * UNIT;
            let (top, end) = (y - 12, BEGIN + length + 6.0);
            let _ = writeln!(
                svg,
                "<text x=\"320\" y=\"{y}\" text-anchor=\"end\">{name}</text>\
                 <rect x=\"{BEGIN}\" y=\"{top}\" width=\"{length:.0}\" height=\"15\" fill=\"{fill}\"/>\
                 <text x=\"{end:.0}\" y=\"{y}\">{value:.2}</text>"
            );
        }
        y += LINE * 3 / 2;
    }
    svg + "</svg>\n"
}
