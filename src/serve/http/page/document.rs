//! `docs/problems.md` as a page: what each code means, without a way to the outside.

use std::sync::LazyLock;

use super::text;

const PROBLEMS: &str = include_str!("../../../../docs/problems.md");

/// The page's inside.
pub static HTML: LazyLock<String> = LazyLock::new(|| html(PROBLEMS));

/// As much of Markdown as that document uses: headings, paragraphs, lists, tables, `code`. The first cell of a row is its name, to which
/// a problem links.
fn html(document: &str) -> String {
    let mut out = String::from("<article class=\"doc\">\n");
    for block in document.split("\n\n") {
        let block = block.trim();
        if let Some(title) = block.strip_prefix("# ") {
            out += &format!("<h1>{}</h1>\n", inline(title));
        } else if let Some(title) = block.strip_prefix("## ") {
            out += &format!("<h2>{}</h2>\n", inline(title));
        } else if block.starts_with('|') {
            table(&mut out, block);
        } else if block.starts_with("- ") {
            let items = format!("\n{block}").replace("\n  ", " ");
            let items: String = items.split("\n- ").skip(1).map(|item| format!("<li>{}</li>\n", inline(item))).collect();
            out += &format!("<ul>\n{items}</ul>\n");
        } else if !block.is_empty() {
            out += &format!("<p>{}</p>\n", inline(block));
        }
    }
    out + "</article>\n"
}

fn table(out: &mut String, block: &str) {
    let mut rows = block.lines().map(|line| line.trim().trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let head: String = rows.next().into_iter().flatten().map(|cell| format!("<th scope=\"col\">{}</th>", inline(cell))).collect();
    *out += "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Problems\">";
    *out += &format!("<table><thead><tr>{head}</tr></thead>\n<tbody>\n");
    for row in rows.skip(1) {
        let Some((name, cells)) = row.split_first() else { continue };
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", inline(cell))).collect();
        let id = if name.contains(' ') { String::new() } else { format!(" id=\"{}\"", text::in_url(name)) };
        *out += &format!("<tr{id}><th scope=\"row\">{}</th>{cells}</tr>\n", inline(name));
    }
    *out += "</tbody></table></div>\n";
}

/// Every second piece between back quotes is code.
fn inline(words: &str) -> String {
    let escaped = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let pieces = escaped.split('`').enumerate();
    pieces.map(|(at, piece)| if at % 2 == 1 { format!("<code>{piece}</code>") } else { piece.to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::Code;

    #[test]
    fn every_code_has_a_place_to_which_a_problem_can_link() {
        for code in Code::ALL {
            let id = format!("id=\"{}\"", code.name());
            assert!(HTML.contains(&id), "{id}");
        }
        assert!(!HTML.contains('|') && !HTML.contains("\n- ") && !HTML.contains('`'), "some Markdown is left");
    }
}
