//! A terminal's text as SVG: letters of one width, and the styles that `aliquot-driver status` uses. Pure.
use std::fmt::Write as _;

use crate::testbed::Result;

/// Of a letter, in the picture's own units; the text is stretched to it, whatever font there is.
const WIDTH: f64 = 7.8;
const LINE: f64 = 18.0;
const MARGIN: f64 = 16.0;
/// Of the picture's terminal.
const COLUMNS: usize = 100;

/// ECMA-48's numbers of the styles, and how they look on either background.
const STYLES: [(&str, &str, &str); 4] = [
    ("1", "s", "font-weight:bold"),
    ("2", "f", "opacity:.62"),
    ("31", "b", "fill:#e5534b"),
    ("32", "g", "fill:#3fa45b"),
];

/// A piece of a line in one style.
#[derive(Debug, PartialEq)]
struct Piece<'a> {
    class: &'static str,
    text: &'a str,
}

/// The picture of a text with styles.
pub(super) fn drawn(text: &str) -> Result<String> {
    let lines = text.lines().map(pieces).collect::<Result<Vec<_>>>()?;
    let lines: Vec<Vec<Piece<'_>>> = lines.into_iter().flat_map(wrapped).collect();
    let length = |line: &Vec<Piece<'_>>| line.iter().map(|piece| piece.text.chars().count()).sum::<usize>();
    let columns = lines.iter().map(length).max().unwrap_or_default();
    let (width, height) = (at(columns) + MARGIN, 2.0 * MARGIN + LINE * number(lines.len()));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n<title>What \
         aliquot-driver status shows of a node</title>\n<style>\n  rect {{ fill: #f6f8fa }}\n  text {{ font: 13px \
         ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #24292f; white-space: pre }}\n"
    );
    for (_, class, look) in STYLES {
        let _ = writeln!(svg, "  .{class} {{ {look} }}");
    }
    svg += "  @media (prefers-color-scheme: dark) { rect { fill: #161b22 } text { fill: #e6edf3 } }\n</style>\n<rect \
            width=\"100%\" height=\"100%\" rx=\"8\"/>\n";
    for (row, line) in lines.iter().enumerate() {
        let y = MARGIN + LINE * (number(row) + 0.75);
        let mut column = 0;
        for piece in line {
            let (letters, words) = (piece.text.chars().count(), piece.text.trim_end());
            let drawn = words.chars().count();
            if drawn > 0 {
                let class = if piece.class.is_empty() { String::new() } else { format!(" class=\"{}\"", piece.class) };
                let (x, long) = (at(column), WIDTH * number(drawn));
                let _ = writeln!(
                    svg,
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" textLength=\"{long:.1}\"{class} xml:space=\"preserve\">{}</text>",
                    escaped(words)
                );
            }
            column += letters;
        }
    }
    Ok(svg + "</svg>\n")
}

/// As a terminal of that width, only that words stay whole: a long line of one style, in several.
fn wrapped(mut line: Vec<Piece<'_>>) -> Vec<Vec<Piece<'_>>> {
    let mut all = Vec::new();
    if let [Piece { class, text }] = line.as_slice() {
        let (class, mut rest) = (*class, *text);
        while let Some((end, _)) = rest.char_indices().nth(COLUMNS) {
            let cut = rest[..end].rfind(' ').unwrap_or(end);
            all.push(vec![Piece { class, text: &rest[..cut] }]);
            rest = rest[cut..].trim_start();
        }
        line = vec![Piece { class, text: rest }];
    }
    all.push(line);
    all
}

fn at(column: usize) -> f64 {
    MARGIN + WIDTH * number(column)
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Of one line, whose styles end with it.
fn pieces(line: &str) -> Result<Vec<Piece<'_>>> {
    let mut all = Vec::new();
    let mut class = "";
    for (nth, part) in line.split("\x1b[").enumerate() {
        let text = if nth == 0 {
            part
        } else {
            let (code, text) = part.split_once('m').ok_or_else(|| format!("no style: {part:?}"))?;
            let style = STYLES.iter().find(|(known, ..)| *known == code);
            class = match style {
                Some((_, class, _)) => class,
                None if code == "0" => "",
                None => return Err(format!("an unknown style: {code:?}").into()),
            };
            text
        };
        if !text.is_empty() {
            all.push(Piece { class, text });
        }
    }
    Ok(all)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn each_style_is_a_class_of_its_own_and_letters_stand_where_they_stood() {
        assert_eq!(
            pieces("a \x1b[31mill\x1b[0m b").unwrap(),
            [Piece { class: "", text: "a " }, Piece { class: "b", text: "ill" }, Piece { class: "", text: " b" }]
        );
        let svg = drawn("ab\x1b[1mc<d\x1b[0m\n").unwrap();
        assert!(
            svg.contains("<text x=\"31.6\" y=\"29.5\" textLength=\"23.4\" class=\"s\" xml:space=\"preserve\">c&lt;d<"),
            "{svg}"
        );
        assert!(pieces("\x1b[7mx").is_err());
    }

    #[test]
    fn a_long_line_goes_on_in_the_next_one() {
        let text = "word ".repeat(30);
        let lines = wrapped(pieces(&text).unwrap());
        let lengths: Vec<usize> = lines.iter().map(|line| line[0].text.trim().len()).collect();
        assert_eq!(lengths, [99, 49]);
    }
}
