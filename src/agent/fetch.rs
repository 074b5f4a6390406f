//! ExecuteFetchAsDba: one statement as the administrator, with its rows as Vitess encodes them.

use mysql_async::consts::{ColumnFlags, ColumnType};
use tokio::time::Instant;

use super::{Agent, AgentError};
use crate::{
    mysql::conn::{Answer, Column, Row, quote},
    pb::{
        query::{self, Field, QueryResult, Type},
        tabletmanagerdata::ExecuteFetchAsDbaRequest,
    },
};

/// Character set number of binary data.
const BINARY: u16 = 63;

impl Agent {
    /// Runs on a connection of its own, which is closed afterwards: the statement may change the session.
    pub(super) async fn fetch(&self, request: &ExecuteFetchAsDbaRequest, deadline: Instant) -> Result<QueryResult, AgentError> {
        let sql =
            std::str::from_utf8(&request.query).map_err(|_| AgentError::Invalid("the statement is not UTF-8".to_owned()))?;
        if statements(sql) > 1 {
            return Err(AgentError::Invalid("several statements were given; this call takes one".to_owned()));
        }
        let mut conn = self.mysql.connect(deadline).await?;
        if !request.db_name.is_empty() {
            conn.exec(&format!("USE `{}`", request.db_name.replace('`', "``")), deadline).await?;
        }
        if request.disable_binlogs {
            conn.exec("SET sql_log_bin = OFF", deadline).await?;
        }
        if request.disable_foreign_key_checks {
            conn.exec("SET SESSION foreign_key_checks = OFF", deadline).await?;
        }
        let max_rows = if request.max_rows == 0 { u64::MAX } else { request.max_rows };
        Ok(encode(&conn.run(sql, max_rows, deadline).await?))
    }

    /// Values of global status variables, by the names asked for.
    pub(super) async fn status_vars(
        &self,
        names: &[String],
        deadline: Instant,
    ) -> Result<std::collections::BTreeMap<String, String>, AgentError> {
        let mut sql = "SELECT variable_name, variable_value FROM performance_schema.global_status".to_owned();
        if !names.is_empty() {
            let list: Vec<String> = names.iter().map(|name| quote(name)).collect();
            sql.push_str(&format!(" WHERE variable_name IN ({})", list.join(", ")));
        }
        let mut conn = self.mysql.conn(deadline).await?;
        let rows = conn.query(&sql, deadline).await?;
        Ok(rows.iter().map(|row| (row.at(0).unwrap_or_default(), row.at(1).unwrap_or_default())).collect())
    }
}

fn encode(answer: &Answer) -> QueryResult {
    QueryResult {
        fields: answer.columns.iter().map(field).collect(),
        rows_affected: answer.rows_affected,
        insert_id: answer.insert_id,
        rows: answer.rows.iter().map(row).collect(),
        info: answer.info.clone(),
        ..QueryResult::default()
    }
}

/// Lengths of the values, -1 for NULL, and the values in one piece.
fn row(row: &Row) -> query::Row {
    let mut encoded = query::Row::default();
    for value in &row.values {
        match value {
            Some(bytes) => {
                encoded.lengths.push(bytes.len() as i64);
                encoded.values.extend_from_slice(bytes);
            }
            None => encoded.lengths.push(-1),
        }
    }
    encoded
}

fn field(column: &Column) -> Field {
    Field {
        name: column.name.clone(),
        r#type: kind(column) as i32,
        table: column.table.clone(),
        org_table: column.org_table.clone(),
        database: column.schema.clone(),
        org_name: column.org_name.clone(),
        column_length: column.length,
        charset: u32::from(column.charset),
        decimals: u32::from(column.decimals),
        flags: u32::from(column.flags.bits()),
        column_type: String::new(),
    }
}

fn kind(column: &Column) -> Type {
    let (unsigned, binary) = (column.flags.contains(ColumnFlags::UNSIGNED_FLAG), column.charset == BINARY);
    let pick = |yes: bool, if_yes, if_no| if yes { if_yes } else { if_no };
    match column.kind {
        ColumnType::MYSQL_TYPE_NULL => Type::NullType,
        ColumnType::MYSQL_TYPE_TINY => pick(unsigned, Type::Uint8, Type::Int8),
        ColumnType::MYSQL_TYPE_SHORT => pick(unsigned, Type::Uint16, Type::Int16),
        ColumnType::MYSQL_TYPE_INT24 => pick(unsigned, Type::Uint24, Type::Int24),
        ColumnType::MYSQL_TYPE_LONG => pick(unsigned, Type::Uint32, Type::Int32),
        ColumnType::MYSQL_TYPE_LONGLONG => pick(unsigned, Type::Uint64, Type::Int64),
        ColumnType::MYSQL_TYPE_YEAR => Type::Year,
        ColumnType::MYSQL_TYPE_FLOAT => Type::Float32,
        ColumnType::MYSQL_TYPE_DOUBLE => Type::Float64,
        ColumnType::MYSQL_TYPE_DECIMAL | ColumnType::MYSQL_TYPE_NEWDECIMAL => Type::Decimal,
        ColumnType::MYSQL_TYPE_TIMESTAMP | ColumnType::MYSQL_TYPE_TIMESTAMP2 => Type::Timestamp,
        ColumnType::MYSQL_TYPE_DATE | ColumnType::MYSQL_TYPE_NEWDATE => Type::Date,
        ColumnType::MYSQL_TYPE_TIME | ColumnType::MYSQL_TYPE_TIME2 => Type::Time,
        ColumnType::MYSQL_TYPE_DATETIME | ColumnType::MYSQL_TYPE_DATETIME2 => Type::Datetime,
        ColumnType::MYSQL_TYPE_BIT => Type::Bit,
        ColumnType::MYSQL_TYPE_JSON => Type::Json,
        ColumnType::MYSQL_TYPE_GEOMETRY => Type::Geometry,
        _ if column.flags.contains(ColumnFlags::ENUM_FLAG) => Type::Enum,
        _ if column.flags.contains(ColumnFlags::SET_FLAG) => Type::Set,
        ColumnType::MYSQL_TYPE_TINY_BLOB
        | ColumnType::MYSQL_TYPE_MEDIUM_BLOB
        | ColumnType::MYSQL_TYPE_LONG_BLOB
        | ColumnType::MYSQL_TYPE_BLOB => pick(binary, Type::Blob, Type::Text),
        ColumnType::MYSQL_TYPE_STRING => pick(binary, Type::Binary, Type::Char),
        _ => pick(binary, Type::Varbinary, Type::Varchar),
    }
}

/// How many statements a text holds: parts between semicolons that stand outside of quotes and comments.
fn statements(sql: &str) -> usize {
    let mut count = 0;
    let mut empty = true;
    let mut rest = sql.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ';' => empty = true,
            '\'' | '"' | '`' => {
                count += usize::from(std::mem::replace(&mut empty, false));
                while let Some(inner) = rest.next() {
                    match inner {
                        '\\' if c != '`' => drop(rest.next()),
                        _ if inner == c => break,
                        _ => {}
                    }
                }
            }
            '#' => while rest.next().is_some_and(|c| c != '\n') {},
            '/' if rest.peek() == Some(&'*') => {
                let mut before = ' ';
                rest.next();
                for inner in rest.by_ref() {
                    if (before, inner) == ('*', '/') {
                        break;
                    }
                    before = inner;
                }
            }
            c if c.is_whitespace() => {}
            _ => count += usize::from(std::mem::replace(&mut empty, false)),
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_counted_outside_of_quotes_and_comments() {
        for (sql, expected) in [
            ("", 0),
            ("select 1", 1),
            ("select 1; ", 1),
            ("select 1; select 2", 2),
            ("select ';'; /* ; */ # ;\n", 1),
            ("select 'it''s; \\';', \";\", `;`", 1),
            ("'a'; 'b'", 2),
        ] {
            assert_eq!(statements(sql), expected, "{sql}");
        }
    }

    #[test]
    fn null_is_a_length_of_minus_one() {
        let answer = Answer { columns: [].into(), rows: vec![], rows_affected: 0, insert_id: 0, info: String::new() };
        assert!(encode(&answer).rows.is_empty());
    }
}
