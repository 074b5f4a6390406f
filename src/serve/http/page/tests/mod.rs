//! Rendering, held against hostile words in every field, and against many shards.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use askama::Template;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::{
    facts, lists,
    notices::Notices,
    overview::{self, Filter},
    parts::Body,
    respond::Frame,
    shard,
};
use crate::{
    pb::{
        self, topodata,
        vtelector::{
            Blocked, ExplainResponse, GetStatusResponse, HistoryResponse, Problem, RecoveriesDisabled, ReplicationState,
            ShardSummary, ShardsResponse, TabletState, shard_summary::State,
        },
    },
    serve::door::{Caller, Role},
};

const HOSTILE: &str = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\u{202e}javascript:alert(1)\n\u{0}x";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// A message whose every field is set: texts to this one, numbers to that one, lists to one element.
fn filled<M: Message + Default + prost::Name>(text: &str, number: i64) -> M {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
    let message = pool.get_message_by_name(&M::full_name()).unwrap();
    M::decode(fill(&message, text, number).encode_to_vec().as_slice()).unwrap()
}

fn fill(message: &MessageDescriptor, text: &str, number: i64) -> DynamicMessage {
    let mut filled = DynamicMessage::new(message.clone());
    for field in message.fields() {
        let value = value(&field, text, number);
        filled.set_field(&field, if field.is_list() { Value::List(vec![value]) } else { value });
    }
    filled
}

fn value(field: &FieldDescriptor, text: &str, number: i64) -> Value {
    match field.kind() {
        Kind::Message(message) => Value::Message(fill(&message, text, number)),
        Kind::String => Value::String(text.to_owned()),
        Kind::Bool => Value::Bool(number % 2 == 1),
        Kind::Enum(_) => Value::EnumNumber((number % 4) as i32),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number as i32),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(number as u32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(number as u64),
        Kind::Double | Kind::Float => Value::F64(number as f64),
        other => panic!("{other:?} in {}", field.full_name()),
    }
}

/// Every page, of messages that are filled with these.
fn pages(text: &str, number: i64) -> Vec<(&'static str, String)> {
    let whole = |body: Body| body.parts(None).render().unwrap();
    let filter = Filter { keyspace: String::new(), text: String::new(), problems: false };
    let (shards, status) = (filled::<ShardsResponse>(text, number), filled::<GetStatusResponse>(text, number));
    let told = filled::<ExplainResponse>(text, number);
    let foretold = shard::foretold("What would happen", told.foretold.as_ref().unwrap()).render().unwrap();
    vec![
        ("overview", whole(overview::body(&shards, &status, &filter, now(), true).unwrap())),
        ("shard", whole(shard::body(&told, now(), true).unwrap())),
        ("foretold", foretold),
        ("errant", whole(lists::errant(&filled(text, number)).unwrap())),
        ("activity", whole(lists::activity(&filled::<HistoryResponse>(text, number), now()).unwrap())),
    ]
}

/// The tags of a page, with the names of their attributes.
fn tags(html: &str) -> Vec<(String, Vec<String>)> {
    let mut tags = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let mut quoted = false;
        let end = rest.find(|c| {
            quoted ^= c == '"';
            c == '>' && !quoted
        });
        let tag = &rest[..end.expect("a tag ends")];
        // What stands in quotes is a value.
        let bare: String = tag.split('"').step_by(2).collect();
        let mut words = bare.split_whitespace().map(|word| word.trim_end_matches('=').to_owned());
        tags.push((words.next().unwrap_or_default(), words.collect()));
        rest = &rest[tag.len()..];
    }
    tags
}

#[test]
fn hostile_words_in_every_field_stay_words() {
    let known_tags = [
        "a", "article", "b", "br", "caption", "code", "dd", "details", "div", "dl", "dt", "h1", "h2", "h3", "header", "i", "li",
        "ol", "p", "pre", "section", "span", "strong", "summary", "table", "tbody", "td", "th", "thead", "tr", "ul",
    ];
    let known_attributes = [
        "id",
        "class",
        "href",
        "scope",
        "role",
        "tabindex",
        "open",
        "data-part",
        "data-version",
        "data-title",
        "aria-live",
        "aria-atomic",
        "aria-label",
        "aria-labelledby",
        "aria-hidden",
    ];
    for number in [0, 1, 2, 3, i64::MAX, i64::MIN + 1] {
        for (name, html) in pages(HOSTILE, number) {
            assert!(html.contains("&lt;script&gt;alert(1)"), "{name} shows nothing of it");
            assert!(!html.contains('\u{202e}') && !html.contains('\0'), "{name} lets text hide");
            for (tag, attributes) in tags(&html) {
                assert!(known_tags.contains(&tag.trim_start_matches('/')), "{name} has a tag {tag}");
                for attribute in attributes {
                    assert!(known_attributes.contains(&attribute.as_str()), "{name}: {tag} has an attribute {attribute}");
                }
            }
            let links = html.split("href=\"").skip(1);
            for link in links {
                assert!(link.starts_with('/') && !link.starts_with("//"), "{name} leads to {}", &link[..40]);
            }
        }
    }
}

#[test]
fn endless_words_are_cut() {
    for (name, html) in pages(&format!("{HOSTILE}{}", "ö".repeat(10_000)), 3) {
        // A name in a link has to be whole, or it leads nowhere.
        let targets = ["href=\"", "value=\"", "action=\"", "data-live=\""]
            .map(|start| html.split(start).skip(1).map(|rest| rest.split('"').next().unwrap_or_default().len()).sum::<usize>());
        let shown = html.len() - targets.iter().sum::<usize>();
        assert!(shown < 100_000, "{name}: {shown} bytes of {}", html.len());
        assert!(html.contains('\u{2026}'), "{name} does not say so");
    }
}

#[test]
fn a_caller_with_a_hostile_name_is_named_in_the_frame_and_does_nothing_there() {
    let caller = Caller { name: Some(HOSTILE.to_owned()), ..Caller::anybody(Role::Reader, HOSTILE) };
    let html = Frame::new(HOSTILE, "/", &caller).live("/?text=%22", "/live?text=%22").rendered(String::new()).unwrap();
    assert!(!html.contains("<script>") && html.contains("&lt;script&gt;") && html.contains(", reader"));
}

fn summary(number: usize, state: State) -> ShardSummary {
    ShardSummary {
        keyspace: format!("keyspace{}", number / 300),
        shard: format!("{number:04x}-{:04x}", number + 1),
        state: state as i32,
        primary: Some(topodata::TabletAlias { cell: "zone1".to_owned(), uid: number as u32 }),
        primary_hostname: format!("db{number}.example.net"),
        tablets: 3,
        replicas: 2,
        replicating: 2,
        durability_policy: "semi_sync".to_owned(),
        evidence_age_ms: Some(number as u64),
        elector: "elector-1.example.net:15999".to_owned(),
        mine: true,
        ..ShardSummary::default()
    }
}

fn fleet(shards: usize) -> ShardsResponse {
    ShardsResponse { shards: (0..shards).map(|number| summary(number, State::Ok)).collect(), silent: Vec::new() }
}

fn overview(shards: &ShardsResponse, status: &GetStatusResponse, filter: &Filter) -> Body {
    overview::body(shards, status, filter, now(), false).unwrap()
}

#[test]
fn a_large_fleet_is_a_small_page() {
    let (status, filter) = (GetStatusResponse::default(), Filter::default());
    let html = overview(&fleet(3333), &status, &filter).parts(None).render().unwrap();
    assert!(html.len() < 950_000 && html.contains("All 3,333 shards are well"), "{} bytes", html.len());
    let mut dead = fleet(3333);
    for shard in &mut dead.shards {
        shard.state = State::Down as i32;
        shard.worst = Some(Problem { code: "DeadPrimary".to_owned(), why: "w".repeat(500), ..Problem::default() });
    }
    let html = overview(&dead, &status, &filter).parts(None).render().unwrap();
    assert!(html.len() < 1_000_000 && html.contains("3,333 shards take no writes"), "{} bytes", html.len());
    assert!(html.contains("3293 more are marked"));
    let html = overview(&fleet(20_000), &status, &filter).parts(None).render().unwrap();
    assert!(html.len() < 1_200_000 && html.contains("the first 4,000 are listed"), "{} bytes", html.len());
}

#[test]
fn what_is_wrong_comes_first_and_a_filter_hides_nothing_from_the_headline() {
    let mut shards = fleet(5);
    shards.shards[1].state = State::Degraded as i32;
    shards.shards[3].state = State::Down as i32;
    let body = overview(&shards, &GetStatusResponse::default(), &Filter::default());
    assert_eq!(body.title, "✖ 1 shard takes no writes");
    let cards = &body.parts.iter().find(|part| part.id == "cards").unwrap().html;
    let place = |name: &str| cards.find(name).unwrap_or_else(|| panic!("{name} is not in {cards}"));
    assert!(place("0003-0004") < place("0001-0002") && !cards.contains("0000-0001"));
    let filter = Filter { text: "0000-".to_owned(), ..Filter::default() };
    let html = overview(&shards, &GetStatusResponse::default(), &filter).parts(None).render().unwrap();
    assert!(html.contains("1 shard takes no writes") && html.contains("1 shown by the filter") && !html.contains("0003-0004"));
    let filter = Filter { problems: true, ..Filter::default() };
    let html = overview(&shards, &GetStatusResponse::default(), &filter).parts(None).render().unwrap();
    assert!(html.contains("0001-0002") && !html.contains("0000-0001"));
}

#[test]
fn a_part_is_told_of_only_when_its_words_change() {
    let (status, filter) = (GetStatusResponse::default(), Filter::default());
    let mut shards = fleet(5);
    let before = overview(&shards, &status, &filter).versions();
    shards.shards[0].evidence_age_ms = Some(5000);
    assert_eq!(overview(&shards, &status, &filter).versions(), before, "evidence of five seconds is as good as of one");
    shards.shards[0].evidence_age_ms = Some(50_000);
    let changed = overview(&shards, &status, &filter);
    let parts = |versions: &str| serde_json::from_str::<Vec<(String, String)>>(versions).unwrap();
    let (old, new) = (parts(&before), parts(&changed.versions()));
    let different: Vec<&str> = old.iter().zip(&new).filter(|(old, new)| old != new).map(|(old, _)| old.0.as_str()).collect();
    assert_eq!(different, ["keyspace-0"]);
}

#[test]
fn what_stands_in_the_way_is_named_with_its_end_and_its_cure() {
    let off = RecoveriesDisabled { who: "anna".to_owned(), why: "network works".to_owned(), since: None };
    let blocked = crate::pb::vtelector::BlockedShard {
        keyspace: "commerce".to_owned(),
        shard: "0".to_owned(),
        blocked: Some(Blocked { by: "failover floor".to_owned(), reason: "one a minute ago".to_owned(), until: None }),
    };
    let status = GetStatusResponse {
        recoveries_disabled: Some(off),
        blocked: vec![blocked],
        not_ready: "the ledger cannot be read".to_owned(),
        settings_error: "line 3".to_owned(),
        ..GetStatusResponse::default()
    };
    let words = |may_act| Notices::everywhere(&status, &[], now(), may_act).render().unwrap();
    for wanted in
        ["network works (anna", "the ledger cannot be read", "line 3", "failover floor: one a minute ago, until a person ends it"]
    {
        assert!(words(false).contains(wanted), "{wanted}: {}", words(false));
    }
    assert!(words(true).contains("/shards/commerce/0/acknowledge") && words(true).contains("/recoveries"));
    assert!(
        !words(false).contains("acknowledge\"") && !words(false).contains("/recoveries"),
        "a reader is offered nothing to do"
    );
    assert_eq!(Notices::everywhere(&GetStatusResponse::default(), &[], now(), true).render().unwrap().trim(), "");
}

#[test]
fn declared_and_observed_disagree_where_they_differ() {
    let alias = |uid| Some(topodata::TabletAlias { cell: "zone1".to_owned(), uid });
    let summary = ShardSummary { primary: alias(100), ..ShardSummary::default() };
    let tablet = |uid, source: Option<u32>, read_only| TabletState {
        alias: alias(uid),
        declared_type: if uid == 100 { "PRIMARY" } else { "REPLICA" }.to_owned(),
        observed_type: "REPLICA".to_owned(),
        read_only: Some(read_only),
        super_read_only: Some(read_only),
        replication: source.map(|source| ReplicationState {
            source_alias: alias(source),
            io_thread: "running".to_owned(),
            sql_running: true,
            ..ReplicationState::default()
        }),
        ..TabletState::default()
    };
    let tablets = [tablet(100, None, true), tablet(101, Some(100), true), tablet(102, Some(101), false)];
    let rows = facts::rows(&tablets, &summary);
    let classes = |label: &str| -> Vec<&str> {
        let (_, facts) = rows.iter().find(|(found, _)| *found == label).unwrap();
        facts.iter().map(|fact| fact.class).collect()
    };
    assert_eq!(classes("Observed type"), ["differs", "", ""]);
    assert_eq!(classes("Takes writes"), ["differs", "", "differs"]);
    assert_eq!(classes("Replicates from"), ["", "", "differs"]);
    assert_eq!(classes("Errant GTIDs"), ["unknown", "unknown", "unknown"]);
}
