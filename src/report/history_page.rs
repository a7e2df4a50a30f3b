//! `history --html`: one page without other files, with a plot of the downtimes and a table of the runs. Pure.

use refresh_events::run_report::Report;
use refresh_system::text::duration;

/// The parts of a downtime and their colors, in the order of [`super::DowntimeParts::named`].
const COLOURS: [&str; 4] = ["#c0504d", "#4f81bd", "#9bbb59", "#8064a2"];
/// The height of the plot, in pixels.
const HEIGHT: f64 = 200.0;
/// The width of a bar and of the gap after it, in pixels.
const BAR: (f64, f64) = (18.0, 6.0);
/// The space left of the bars, for the scale.
const LEFT: f64 = 70.0;

/// Returns the page for runs, the latest first. `title` names the installation.
pub fn page(title: &str, reports: &[&Report]) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Refreshes of {title}</title>\n\
         <style>body{{font:14px sans-serif;margin:2em;color:#222}}table{{border-collapse:collapse;margin-top:2em}}\
         th,td{{text-align:left;padding:.3em 1em .3em 0;border-bottom:1px solid #ddd}}.bad{{color:#b00}}\
         svg text{{font:11px sans-serif;fill:#555}}</style></head><body>\n<h1>Refreshes of {title}</h1>\n\
         {}{}</body></html>\n",
        plot(reports),
        table(reports)
    )
}

/// Plots the downtime of each run, the earliest at the left.
fn plot(reports: &[&Report]) -> String {
    let down: Vec<(&Report, u64)> =
        reports.iter().rev().filter_map(|report| Some((*report, report.downtime_ms?))).collect();
    let Some(most) = down.iter().map(|(_, ms)| *ms).max().filter(|most| *most > 0) else {
        return "<p>No run has had a downtime.</p>\n".to_owned();
    };
    let width = (0..down.len()).fold(LEFT, |width, _| width + BAR.0 + BAR.1);
    let mut svg = format!(
        "<svg role=\"img\" aria-label=\"Downtime of each run\" width=\"{width}\" height=\"{}\">\n\
         <text x=\"0\" y=\"12\">{}</text><text x=\"0\" y=\"{HEIGHT}\">0 ms</text>\n",
        HEIGHT + 30.0,
        duration(most)
    );
    let mut x = LEFT;
    for (report, total) in down {
        let parts = report.downtime.map_or_else(|| vec![("downtime", total)], |parts| parts.named().to_vec());
        let mut y = HEIGHT;
        for ((name, ms), colour) in parts.into_iter().zip(COLOURS) {
            let height = pixels(ms, most);
            y -= height;
            svg.push_str(&format!(
                "<rect x=\"{x}\" y=\"{y:.1}\" width=\"{}\" height=\"{height:.1}\" fill=\"{colour}\">\
                 <title>{}: {name} {} of {}</title></rect>\n",
                BAR.0,
                escaped(report.run.as_str()),
                duration(ms),
                duration(total)
            ));
        }
        x += BAR.0 + BAR.1;
    }
    let mut x = LEFT;
    for (name, colour) in ["stop", "sync", "hooks", "start"].into_iter().zip(COLOURS) {
        svg.push_str(&format!(
            "<rect x=\"{x}\" y=\"{0}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{1}\" y=\"{2}\">{name}</text>\n",
            HEIGHT + 12.0,
            x + 14.0,
            HEIGHT + 21.0
        ));
        x += 60.0;
    }
    svg.push_str("</svg>\n");
    svg
}

/// Returns the height of a part of a bar.
fn pixels(ms: u64, most: u64) -> f64 {
    let thousandths = u32::try_from(ms.saturating_mul(1000) / most).unwrap_or(1000);
    f64::from(thousandths) * (HEIGHT - 20.0) / 1000.0
}

fn table(reports: &[&Report]) -> String {
    let mut rows = String::new();
    for report in reports {
        let commit = report.commit.as_ref().map_or("unknown", |commit| commit.short());
        let before = report.commit_before.as_ref().map_or("", |commit| commit.short());
        let class = if report.exit_code == 0 { "" } else { " class=\"bad\"" };
        let down = report.down_ms().map(duration).unwrap_or_default();
        let parts =
            report.downtime.map(|parts| parts.named().map(|(name, ms)| format!("{name} {}", duration(ms))));
        let parts = parts.map(|parts| parts.join(", ")).unwrap_or_default();
        let why = report.error.as_ref().and_then(|error| error.chain.first()).cloned().unwrap_or_default();
        rows.push_str(&format!(
            "<tr><td>{}</td><td>{}</td><td{class}>{}</td><td>{}</td><td><code>{before}</code> → <code>{commit}</code></td>\
             <td>{down}</td><td>{parts}</td><td{class}>{}</td></tr>\n",
            escaped(report.run.as_str()),
            report.started_at,
            escaped(&report.in_words()),
            escaped(report.branch.as_str()),
            escaped(&why)
        ));
    }
    format!(
        "<table><tr><th>run</th><th>began</th><th>result</th><th>branch</th><th>commits</th><th>downtime</th>\
         <th>parts</th><th>error</th></tr>\n{rows}</table>\n"
    )
}

/// Escapes text for HTML: the text of a run may come from a branch or a program.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_escaped() {
        assert_eq!(
            escaped("<script>a & \"b\"</script>"),
            "&lt;script&gt;a &amp; &quot;b&quot;&lt;/script&gt;"
        );
        assert!(page("<b>", &[]).contains("Refreshes of &lt;b&gt;"));
    }

    #[test]
    fn a_bar_is_as_high_as_its_share_of_the_longest_downtime() {
        assert!((pixels(500, 1000) - 90.0).abs() < 0.1);
        assert!((pixels(1000, 1000) - 180.0).abs() < 0.1);
        assert!(pixels(0, 1000).abs() < 0.1);
    }
}
