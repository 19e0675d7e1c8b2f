//! A report as one HTML file that needs nothing else.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// A part of the report.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// What there is to know about it.
    pub text: String,
    /// Its tables.
    pub tables: Vec<Table>,
    /// Its figures.
    pub figures: Vec<Figure>,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Names of the columns.
    pub head: Vec<String>,
    /// Rows; the first cell of each is its name.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// The table in columns, for the terminal.
    pub fn text(&self) -> String {
        let rows = || [&self.head].into_iter().chain(&self.rows);
        let width = |column: usize| {
            rows()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let mut text = String::new();
        for row in rows() {
            let cells = row
                .iter()
                .enumerate()
                .map(|(i, cell)| match (i, width(i).unwrap_or(0)) {
                    (0, width) => format!("{cell:<width$}"),
                    (_, width) => format!("{cell:>width$}"),
                });
            text += &(cells.collect::<Vec<_>>().join("  ") + "\n");
        }
        text
    }
}

/// A figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// An SVG picture, or an image element.
    pub svg: String,
    /// What it shows, for those who do not see it.
    pub description: String,
    /// Whether it has the page's width to itself.
    pub wide: bool,
}

/// The report's HTML: readable on a phone, in light and dark, without a connection.
pub fn report(title: &str, introduction: &str, sections: &[Section]) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    p { (introduction) }
                    @for section in sections { (section_html(section)) }
                }
            }
        }
    }
    .into_string()
}

fn section_html(section: &Section) -> Markup {
    html! {
        section {
            h2 { (section.title) }
            @if !section.text.is_empty() { p { (section.text) } }
            @for table in &section.tables {
                div.table {
                    table {
                        thead { tr { @for cell in &table.head { th scope="col" { (cell) } } } }
                        tbody {
                            @for row in &table.rows {
                                tr {
                                    @for (i, cell) in row.iter().enumerate() {
                                        @if i == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            div.figures {
                @for figure in &section.figures {
                    figure.wide[figure.wide] role="img" aria-label=(figure.description) {
                        (PreEscaped(&figure.svg))
                        @if figure.svg.starts_with("<img") { figcaption { (figure.description) } }
                    }
                }
            }
        }
    }
}

/// The figures' black and white become those of the page.
const STYLE: &str = r##"
:root { --ink: #1b1b1b; --paper: #ffffff; --faint: #8884; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin-top: 2rem; border-top: 1px solid var(--faint); padding-top: 1rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--faint); }
th:first-child { text-align: left; padding-left: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1rem; margin-top: 1rem; }
figure { margin: 0; min-width: 0; }
figure.wide { grid-column: 1 / -1; max-width: 48rem; }
img { max-width: 100%; display: block; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font-family: system-ui, sans-serif; }
svg [fill="#FFFFFF"] { fill: var(--paper); }
svg [fill="#000000"]:not(text) { fill: var(--ink); }
svg [stroke="#000000"] { stroke: var(--ink); }
"##;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_nothing_is_fetched() {
        let section = Section {
            title: "<b>".into(),
            text: "a & b".into(),
            tables: vec![Table {
                head: vec!["x".into()],
                rows: vec![vec!["<script>".into()]],
            }],
            figures: vec![Figure {
                svg: "<svg></svg>".into(),
                description: "\"quoted\"".into(),
                wide: true,
            }],
        };
        let html = report("t", "i", &[section]);
        for sound in [
            "&lt;b&gt;",
            "a &amp; b",
            "&lt;script&gt;",
            "&quot;quoted&quot;",
        ] {
            assert!(html.contains(sound), "{sound}");
        }
        for link in ["http:", "https:", "src=", "<link", "url("] {
            assert!(!html.contains(link), "{link}");
        }
    }
}
