//! Figures as a table for people and as JSON lines for machines.
use std::fmt::Write as _;

use serde::Serialize;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Of what.
    pub name: String,
    /// In what.
    pub unit: &'static str,
    /// How much.
    pub value: f64,
    /// The same, of the floor.
    pub floor: Option<f64>,
    /// The value as a multiple of the floor.
    pub ratio: Option<f64>,
    /// What is to be reached.
    #[serde(skip)]
    pub reach: Option<f64>,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

impl Report {
    /// Adds a figure.
    pub fn add(&mut self, name: &str, unit: &'static str, value: f64, floor: Option<f64>, reach: Option<f64>) {
        let ratio = floor.filter(|floor| *floor > 0.0).map(|floor| value / floor);
        self.figures.push(Figure { name: name.to_owned(), unit, value, floor, ratio, reach });
    }

    /// One object a line.
    pub fn json(&self) -> String {
        let lines = self.figures.iter().filter_map(|figure| serde_json::to_string(figure).ok());
        lines.fold(String::new(), |text, line| text + &line + "\n")
    }

    /// A table; what misses its goal is marked.
    pub fn table(&self) -> String {
        let mut text = format!("{:24} {:>12} {:>12} {:>8} {:>12}\n", "figure", "value", "floor", "ratio", "reach");
        for figure in &self.figures {
            let number =
                |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2} {}", figure.unit));
            let ratio = figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:.1}×"));
            let missed = figure.reach.is_some_and(|reach| figure.value > reach);
            let _ = writeln!(
                text,
                "{:24} {:>12} {:>12} {:>8} {:>12}{}",
                figure.name,
                number(Some(figure.value)),
                number(figure.floor),
                ratio,
                number(figure.reach),
                if missed { "  missed" } else { "" }
            );
        }
        text
    }
}
