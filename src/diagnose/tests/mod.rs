//! Stories (files in `stories/`), and what holds for every view.

mod properties;
mod story;

use std::{fmt::Write, path::PathBuf};

use story::Story;

const FILES: [(&str, &str); 7] = [
    ("dead", include_str!("stories/dead.txt")),
    ("primary", include_str!("stories/primary.txt")),
    ("records", include_str!("stories/records.txt")),
    ("replica", include_str!("stories/replica.txt")),
    ("semi_sync", include_str!("stories/semi_sync.txt")),
    ("structure", include_str!("stories/structure.txt")),
    ("order", include_str!("stories/order.txt")),
];

/// What a story's diagnosis looks like in its file: a line a problem, and its reason below it.
fn told(story: &Story) -> String {
    let mut text = String::new();
    for problem in super::diagnose(&story.view, &story.rules) {
        let tablet = problem.tablet.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        writeln!(text, "{} {tablet} -> {}\n    {}", problem.code, remedy(&problem.remedy), problem.why).unwrap();
    }
    if text.is_empty() { "nothing is wrong\n".to_owned() } else { text }
}

fn remedy(remedy: &super::Remedy) -> String {
    match remedy {
        super::Remedy::Reread(tablets) => format!("Reread {}", super::facts::names(tablets)),
        super::Remedy::Takeover { to, then_emergency } => {
            let to = to.as_ref().map_or_else(|| "an elected one".to_owned(), ToString::to_string);
            format!("Takeover to {to}{}", if *then_emergency { ", then Emergency" } else { "" })
        }
        other => format!("{other:?}"),
    }
}

/// A file of stories: its blocks begin with `== title`, and what is expected stands below `----`.
fn rewritten(file: &str, text: &str) -> String {
    let mut blocks = text.split("\n== ");
    let mut new = blocks.next().unwrap().to_owned();
    for block in blocks {
        let given = block.split("----\n").next().unwrap();
        write!(new, "\n== {given}----\n{}", told(&Story::parse(file, given))).unwrap();
    }
    new
}

/// `UPDATE_STORIES=1 cargo test diagnose` writes what the diagnosis says now into the files; the difference is to be read like code.
#[test]
fn every_story_ends_as_it_is_told() {
    for (file, text) in FILES {
        let new = rewritten(file, text);
        if std::env::var_os("UPDATE_STORIES").is_some() {
            let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("src/diagnose/tests/stories/{file}.txt"));
            std::fs::write(path, new).unwrap();
            continue;
        }
        let (old, new): (Vec<&str>, Vec<&str>) = (text.lines().collect(), new.lines().collect());
        for (at, (old, new)) in old.iter().zip(&new).enumerate() {
            assert_eq!(old, new, "stories/{file}.txt:{}", at + 1);
        }
        assert_eq!(old.len(), new.len(), "stories/{file}.txt");
    }
}

#[test]
fn every_code_is_told_in_a_story_and_stands_in_the_manual_in_its_place() {
    let manual = include_str!("../../../docs/problems.md");
    let listed: Vec<&str> = manual.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
    let codes = || super::Code::ALL.iter().copied();
    let listed: Vec<super::Code> = listed.into_iter().filter_map(|name| codes().find(|code| code.name() == name)).collect();
    let mut in_order: Vec<super::Code> = codes().collect();
    in_order.sort_by_key(|code| (code.priority(), *code));
    assert_eq!(listed, in_order);
    for code in codes() {
        let found = FILES.iter().any(|(_, text)| text.lines().any(|line| line.starts_with(&format!("{code} "))));
        assert!(found, "no story tells of {code}");
    }
}

/// A record comes within milliseconds of a promotion, a status up to a second later: what was said before is no difference.
#[test]
fn what_was_said_under_another_primary_is_no_problem_of_this_one() {
    let story = "any\nz1-100 PRIMARY\nz1-101 age=0.3 src=z1-102\nz1-102 age=0.3 src=none\n";
    let mut story = Story::parse("young", story);
    let remedies = |story: &Story| {
        let problems = super::diagnose(&story.view, &story.rules).into_iter();
        problems.filter(|problem| problem.remedy != super::Remedy::Report).map(|problem| problem.code).collect::<Vec<_>>()
    };
    let wrong = [super::Code::NotConnectedToPrimary, super::Code::ConnectedToWrongPrimary];
    assert_eq!(remedies(&story), wrong);
    story.view.primary_for = Some(std::time::Duration::from_millis(200));
    assert_eq!(remedies(&story), []);
    story.view.primary_for = Some(std::time::Duration::from_millis(400));
    assert_eq!(remedies(&story), wrong);
}

/// A bounced IO thread harms a living primary: one that is full, greets, or answers us by any other way is not asked like that.
#[test]
fn replicas_are_bounced_only_for_a_primary_that_is_silent() {
    let may = |primary: &str| {
        let story = format!("any\nz1-100 PRIMARY {primary}\nz1-101 age=0.1\nz1-102 age=0.1\n");
        let story = Story::parse("bounce", &story);
        super::may_bounce(&story.view, &story.rules)
    };
    assert!(may("down=silent@1.0") && may("mysql=refused@1.0 direct=closed@1.0"));
    for lives in ["", "down=silent@0.4 good=0.9", "mysql=toomany@5", "mysql=answered@5", "down=silent@5 direct=ok", "shutdown"] {
        assert!(!may(lives), "{lives:?}");
    }
    assert!(!may("down=silent@5\nheard z1-101 greeted@0.3"));
    assert!(!may("down=silent@5\nnot looked"));
}
