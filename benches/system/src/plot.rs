//! Curves over time as an SVG picture.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 90.0;
const TOP: f64 = 28.0;
/// More points than these can't be told apart.
const POINTS_MAX: usize = 450;

/// A curve with its name and unit.
pub struct Curve {
    pub title: String,
    /// Second and value.
    pub points: Vec<(f64, f64)>,
}

/// All curves below each other, over the same time, each from zero.
pub fn svg(curves: &[Curve]) -> String {
    let last = |curve: &Curve| curve.points.last().map_or(0.0, |point| point.0);
    let seconds = curves.iter().map(last).fold(1.0, f64::max);
    let (width, height) = (LEFT + WIDTH + 20.0, (HEIGHT + 2.0 * TOP) * curves.len() as f64);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n"
    );
    for (i, curve) in curves.iter().enumerate() {
        draw(&mut out, curve, (HEIGHT + 2.0 * TOP) * i as f64 + TOP, seconds);
    }
    out + "</svg>\n"
}

fn draw(out: &mut String, curve: &Curve, top: f64, seconds: f64) {
    let most = curve.points.iter().map(|point| point.1).fold(0.0, f64::max);
    let scale = if most > 0.0 { most * 1.1 } else { 1.0 };
    let (bottom, right) = (top + HEIGHT, LEFT + WIDTH);
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("a string");
    line(format_args!("<text x=\"{LEFT}\" y=\"{}\">{}</text>", top - 8.0, curve.title));
    line(format_args!(
        "<path d=\"M{LEFT} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"gray\"/>"
    ));
    for (value, y) in [(most, bottom - most / scale * HEIGHT), (0.0, bottom)] {
        let x = LEFT - 6.0;
        line(format_args!(
            "<text x=\"{x}\" y=\"{y:.0}\" text-anchor=\"end\">{}</text>",
            short(value)
        ));
    }
    for (second, x) in [(0.0, LEFT), (seconds, right)] {
        let y = bottom + 15.0;
        line(format_args!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{second:.0} s</text>"));
    }
    let points: String = thinned(&curve.points)
        .map(|(second, value)| {
            let (x, y) = (LEFT + second / seconds * WIDTH, bottom - value / scale * HEIGHT);
            format!("{x:.1},{y:.1} ")
        })
        .collect();
    line(format_args!(
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"steelblue\" stroke-width=\"1.5\"/>"
    ));
}

/// Three digits.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e6 => (value / 1e6, " M"),
        value if value >= 1e3 => (value / 1e3, " k"),
        value => (value, ""),
    };
    let decimals = if value == 0.0 || value >= 100.0 { 0 } else { 1 };
    format!("{value:.decimals$}{unit}")
}

/// Of neighbours that fall together the least and the greatest stay, so that no peak is lost.
fn thinned(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> + '_ {
    let together = points.len().div_ceil(POINTS_MAX / 2).max(1);
    points.chunks(together).flat_map(move |chunk| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let least = chunk.iter().min_by(by_value).copied();
        let greatest = chunk.iter().max_by(by_value).copied().filter(|_| chunk.len() > 1);
        let mut both: Vec<_> = least.into_iter().chain(greatest).collect();
        both.sort_by(|a, b| a.0.total_cmp(&b.0));
        both
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_peak_is_lost() {
        let mut points: Vec<_> = (0..10_000).map(|i| (f64::from(i), 1.0)).collect();
        points[777].1 = 9.0;
        let kept: Vec<_> = thinned(&points).collect();
        assert!(kept.len() <= POINTS_MAX && kept.contains(&(777.0, 9.0)));
        assert_eq!(thinned(&points[..3]).count(), 3);
    }
}
