//! The figures as bars, one panel for each of the three that people ask for first.

use std::fmt::Write as _;

use crate::figures::Figures;
use crate::{CPU, MEMORY, RATE};

/// An SVG.
pub(crate) fn draw(figures: &Figures, headline: &str) -> String {
    let panels = [
        ("answered in a second, in a burst", RATE, "/s"),
        ("CPU for each certificate", CPU, "ms"),
        ("peak memory of a process", MEMORY, "MiB"),
    ];
    let (mut body, mut top) = (String::new(), 60);
    for (title, figure, unit) in panels {
        let bars = figures.medians(figure);
        let longest = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        write!(body, r#"<text x="20" y="{top}" font-weight="bold">{title}</text>"#).expect("a string takes it");
        for (number, (program, value)) in bars.iter().enumerate() {
            let (y, width) = (top + 12 + ROW * number, value / longest * WIDTH);
            let colour = if program.starts_with("ours") { "#1f6feb" } else { "#9aa4b2" };
            write!(
                body,
                r#"<text x="150" y="{}" text-anchor="end">{program}</text><rect x="160" y="{y}" width="{width:.1}" height="16" fill="{colour}"/><text x="{:.1}" y="{}">{value:.2} {unit}</text>"#,
                y + 13,
                168.0 + width,
                y + 13,
            )
            .expect("a string takes it");
        }
        top += 50 + ROW * bars.len();
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{top}" font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#ffffff"/><text x="20" y="28" font-size="14">{headline}</text>{body}</svg>"##
    )
}

const ROW: usize = 22;
const WIDTH: f64 = 420.0;
