//! `docs/problems.md` and `docs/runbook.md` as pages: what each code means and what to do about it, without a way to the outside.

use std::sync::LazyLock;

use super::text;
use crate::diagnose::Code;

/// What each problem means: the page's inside.
pub static PROBLEMS: LazyLock<String> = LazyLock::new(|| html(include_str!("../../../../docs/problems.md")));
/// What to do about each problem and each alert: the page's inside.
pub static RUNBOOK: LazyLock<String> = LazyLock::new(|| html(include_str!("../../../../docs/runbook.md")));

/// How the lines of an entry of the runbook begin.
const LEADS: [&str; 4] = ["Means", "Look", "Do", "Do not"];

/// Where the runbook says what to do about a problem.
pub fn what_to_do(code: &str) -> String {
    format!("/runbook#{}", text::in_url(&code.to_lowercase()))
}

/// As much of Markdown as those documents use: headings, paragraphs, lists, tables, blocks of code, `code`, links. The first cell of a
/// row is its name, to which a problem links; so is a heading of the third level, in small letters as in links to such documents.
fn html(document: &str) -> String {
    let mut out = String::from("<article class=\"doc\">\n");
    for block in document.split("\n\n") {
        let block = block.trim();
        if let Some(title) = block.strip_prefix("# ") {
            out += &format!("<h1>{}</h1>\n", inline(title));
        } else if let Some(title) = block.strip_prefix("## ") {
            out += &format!("<h2>{}</h2>\n", inline(title));
        } else if let Some(title) = block.strip_prefix("### ") {
            let place = text::in_url(&title.to_lowercase());
            let when = if is_code(title) { format!(" <a href=\"/problems#{title}\">When exactly</a>") } else { String::new() };
            out += &format!("<h3 id=\"{place}\">{}{when}</h3>\n", inline(title));
        } else if block.starts_with('|') {
            table(&mut out, block);
        } else if block.starts_with("- ") {
            let items = format!("\n{block}").replace("\n  ", " ");
            let items: String = items.split("\n- ").skip(1).map(|item| format!("<li>{}</li>\n", led(item))).collect();
            out += &format!("<ul>\n{items}</ul>\n");
        } else if let Some(code) = block.strip_prefix("```sh\n").and_then(|block| block.strip_suffix("\n```")) {
            out += &format!("<pre tabindex=\"0\">{}</pre>\n", escaped(code));
        } else if !block.is_empty() {
            out += &format!("<p>{}</p>\n", inline(block));
        }
    }
    out + "</article>\n"
}

fn is_code(name: &str) -> bool {
    Code::ALL.iter().any(|code| code.name() == name)
}

fn table(out: &mut String, block: &str) {
    let mut rows = block.lines().map(|line| line.trim().trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let head: String = rows.next().into_iter().flatten().map(|cell| format!("<th scope=\"col\">{}</th>", inline(cell))).collect();
    *out += "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Problems\">";
    *out += &format!("<table><thead><tr>{head}</tr></thead>\n<tbody>\n");
    for row in rows.skip(1) {
        let Some((name, cells)) = row.split_first() else { continue };
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", inline(cell))).collect();
        let (id, name) = match is_code(name) {
            true => (format!(" id=\"{name}\""), format!("<a href=\"{}\">{name}</a>", what_to_do(name))),
            false => (String::new(), inline(name)),
        };
        *out += &format!("<tr{id}><th scope=\"row\">{name}</th>{cells}</tr>\n");
    }
    *out += "</tbody></table></div>\n";
}

/// An item of a list; what an entry of the runbook begins with is seen first.
fn led(item: &str) -> String {
    match item.split_once(": ").filter(|(lead, _)| LEADS.contains(lead)) {
        Some((lead, rest)) => format!("<strong>{lead}:</strong> {}", inline(rest)),
        None => inline(item),
    }
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Every second piece between back quotes is code.
fn inline(words: &str) -> String {
    let words = escaped(words);
    let pieces = words.split('`').enumerate();
    pieces.map(|(at, piece)| if at % 2 == 1 { format!("<code>{piece}</code>") } else { linked(piece) }).collect()
}

/// A link to the other document leads to its page. One to another file is its name: that file is not here.
fn linked(words: &str) -> String {
    let Some((before, rest)) = words.split_once('[') else { return words.to_owned() };
    let Some((label, (target, after))) = rest.split_once("](").and_then(|(label, rest)| Some((label, rest.split_once(')')?)))
    else {
        return words.to_owned();
    };
    let link = match target {
        "problems.md" => format!("<a href=\"/problems\">{label}</a>"),
        "runbook.md" => format!("<a href=\"/runbook\">{label}</a>"),
        _ => label.to_owned(),
    };
    format!("{before}{link}{}", linked(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_place_to_which_a_problem_can_link() {
        for code in Code::ALL {
            let (meaning, remedy) = (format!("<tr id=\"{}\">", code.name()), what_to_do(code.name()));
            assert!(PROBLEMS.contains(&meaning) && PROBLEMS.contains(&remedy), "{meaning}");
            let (_, place) = remedy.split_once('#').unwrap();
            assert!(RUNBOOK.contains(&format!("<h3 id=\"{place}\">{} ", code.name())), "{remedy}");
        }
        assert!(RUNBOOK.contains("<h3 id=\"vtelectorshardcannotwrite\">"), "alerts link to it");
        assert!(RUNBOOK.contains("<strong>Do not:</strong>") && RUNBOOK.contains("<pre tabindex=\"0\">vtelector status"));
        for page in [&PROBLEMS, &RUNBOOK] {
            let left = ["\n- ", "`", "](", "**", "\n#", " | "].into_iter().find(|mark| page.contains(mark));
            assert_eq!(left, None, "some Markdown is left");
        }
    }

    #[test]
    fn links_lead_to_pages_that_are_here() {
        assert_eq!(
            inline("see [problems](problems.md), ([fleet.md](fleet.md)) and `[a](b)` <[open"),
            "see <a href=\"/problems\">problems</a>, (fleet.md) and <code>[a](b)</code> &lt;[open"
        );
    }
}
