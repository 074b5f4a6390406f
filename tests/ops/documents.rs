//! Parts of documents that are generated: what is committed is what the code says. `make docs` writes them anew.

use super::{path, read};

/// The part of a document between `<!-- NAME -->` and `<!-- end of NAME -->` is this text.
pub fn generated(document: &str, name: &str, text: &str) {
    let whole = read(document);
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
    let start = whole.find(&begin).unwrap_or_else(|| panic!("{document} has no {begin}")) + begin.len();
    let length = whole[start..].find(&end).unwrap_or_else(|| panic!("{document} has no {end}"));
    if std::env::var_os("WRITE_DOCS").is_some() {
        let new = format!("{}{text}{}", &whole[..start], &whole[start + length..]);
        std::fs::write(path(document), new).unwrap();
        return;
    }
    let first_difference = whole[start..start + length].lines().zip(text.lines()).find(|(found, wanted)| found != wanted);
    assert!(
        &whole[start..start + length] == text,
        "{document} does not say what the code says; `make docs` writes it anew. The first difference: {first_difference:?}"
    );
}

/// A table of Markdown.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    let rows: String =
        rows.into_iter().map(|row| line(&row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>())).collect();
    format!("{}{rule}{rows}", line(&head))
}
