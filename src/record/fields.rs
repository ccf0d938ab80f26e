//! Fields: named values behind the arguments of the format string, and those that only a call knows.

use super::render::{display, quoted};
use super::value::{Value, Values};
use crate::layout::site::{DYNAMIC, SPANS, ty};

/// A named value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field<'a> {
    /// Its name: UTF-8, if its writer kept to the rules.
    pub name: &'a [u8],
    /// Its value.
    pub value: Value<'a>,
}

/// The fields of a record, dynamic ones in their place. What is damaged ends the list (that the record is
/// damaged stands in its text, see [`CompiledFormat::render`](super::CompiledFormat::render)).
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    names: &'a [u8],
    values: Values<'a>,
    dynamic: Dynamic<'a>,
    spans: Spans<'a>,
}

impl<'a> Fields<'a> {
    /// Of a payload with these argument types, the first `own` of which are the format string's.
    pub fn new(types: &'a [u8], own: usize, names: &'a [u8], payload: &'a [u8]) -> Fields<'a> {
        let mut values = Values::new(types, payload);
        for _ in 0..own {
            values.next();
        }
        Fields { names, values, dynamic: Dynamic { bytes: &[] }, spans: Spans { bytes: &[] } }
    }

    /// Fields known by nobody but their bytes, as in [`DYNAMIC`].
    fn dynamic(bytes: &'a [u8]) -> Fields<'a> {
        let spans = Spans { bytes: &[] };
        Fields { names: &[], values: Values::new(&[], &[]), dynamic: Dynamic { bytes }, spans }
    }

    /// The spans that were open at the call, outermost first.
    pub fn spans(self) -> Spans<'a> {
        let mut all = self;
        while all.next().is_some() {}
        all.spans
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;
    fn next(&mut self) -> Option<Field<'a>> {
        loop {
            if let Some(f) = self.dynamic.next() {
                return Some(f);
            }
            let end = self.names.iter().position(|&b| b == 0)?;
            let name = &self.names[..end];
            self.names = &self.names[end + 1..];
            let value = self.values.next()?.ok()?;
            match (name, value) {
                (DYNAMIC, Value::Str(bytes)) => self.dynamic = Dynamic { bytes },
                (SPANS, Value::Str(bytes)) => self.spans = Spans { bytes },
                _ => return Some(Field { name, value }),
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Dynamic<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for Dynamic<'a> {
    type Item = Field<'a>;
    fn next(&mut self) -> Option<Field<'a>> {
        let (&len, rest) = self.bytes.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(u16::from_le_bytes(len) as usize)?;
        let (t, rest) = rest.split_at_checked(1)?;
        let (value, rest) = Values::first(t[0], rest).ok()?;
        self.bytes = rest;
        Some(Field { name, value })
    }
}

/// A span that was open at a call.
#[derive(Clone, Debug)]
pub struct Span<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its number in its process.
    pub id: u64,
    /// Its fields at that time.
    pub fields: Fields<'a>,
}

/// Spans, outermost first. What is damaged ends the list.
#[derive(Clone, Debug)]
pub struct Spans<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for Spans<'a> {
    type Item = Span<'a>;
    fn next(&mut self) -> Option<Span<'a>> {
        let (&len, rest) = self.bytes.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(u16::from_le_bytes(len) as usize)?;
        let (&id, rest) = rest.split_first_chunk()?;
        let (&len, rest) = rest.split_first_chunk()?;
        let (fields, rest) = rest.split_at_checked(u32::from_le_bytes(len) as usize)?;
        self.bytes = rest;
        Some(Span { name, id: u64::from_le_bytes(id), fields: Fields::dynamic(fields) })
    }
}

/// Builds dynamic fields and spans in memory of the caller. Async-signal-safe; does not allocate. What does not
/// fit is left out whole, and counted.
#[derive(Debug)]
pub struct DynFields<'b> {
    buffer: &'b mut [u8],
    len: usize,
    left_out: usize,
}

impl<'b> DynFields<'b> {
    /// Nothing yet.
    pub fn new(buffer: &'b mut [u8]) -> DynFields<'b> {
        DynFields { buffer, len: 0, left_out: 0 }
    }

    /// What was built.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// Fields and spans that did not fit.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Adds a field. A name has at most 65 535 bytes, the rest is cut.
    pub fn field(&mut self, name: &[u8], value: Value<'_>) {
        let from = self.len;
        let name = &name[..name.len().min(u16::MAX as usize)];
        let ok = self.put(&(name.len() as u16).to_le_bytes()) && self.put(name) && self.value(value);
        self.keep_from(from, ok);
    }

    /// Adds a span; `fields` is what another builder has built.
    pub fn span(&mut self, name: &[u8], id: u64, fields: &[u8]) {
        let from = self.len;
        let name = &name[..name.len().min(u16::MAX as usize)];
        let ok = self.put(&(name.len() as u16).to_le_bytes())
            && self.put(name)
            && self.put(&id.to_le_bytes())
            && self.put(&(fields.len() as u32).to_le_bytes())
            && self.put(fields);
        self.keep_from(from, ok);
    }

    fn keep_from(&mut self, from: usize, ok: bool) {
        if !ok {
            self.len = from;
            self.left_out += 1;
        }
    }

    fn put(&mut self, bytes: &[u8]) -> bool {
        let Some(to) = self.buffer.get_mut(self.len..self.len + bytes.len()) else { return false };
        to.copy_from_slice(bytes);
        self.len += bytes.len();
        true
    }

    fn value(&mut self, value: Value<'_>) -> bool {
        match value {
            // The bits it has: two's complement, so the low bytes are the value.
            Value::Signed(v, bits) => {
                let (t, n) = match bits {
                    8 => (ty::I8, 1),
                    16 => (ty::I16, 2),
                    32 => (ty::I32, 4),
                    64 => (ty::I64, 8),
                    _ => (ty::I128, 16),
                };
                self.put(&[t]) && self.put(&v.to_le_bytes()[..n])
            }
            Value::Unsigned(v) => match u64::try_from(v) {
                Ok(v) => self.put(&[ty::U64]) && self.put(&v.to_le_bytes()),
                Err(_) => self.put(&[ty::U128]) && self.put(&v.to_le_bytes()),
            },
            Value::F32(v) => self.put(&[ty::F32]) && self.put(&v.to_le_bytes()),
            Value::F64(v) => self.put(&[ty::F64]) && self.put(&v.to_le_bytes()),
            Value::Bool(v) => self.put(&[ty::BOOL, u8::from(v)]),
            Value::Char(v) => self.put(&[ty::CHAR]) && self.put(&(v as u32).to_le_bytes()),
            Value::Str(s) => {
                let len = u32::try_from(s.len());
                len.is_ok_and(|n| self.put(&[ty::STR]) && self.put(&n.to_le_bytes())) && self.put(s)
            }
        }
    }
}

/// Appends a value as text shows it: as `{}` does, and strings in quotes if they are empty or hold a space, a
/// quote, `=`, a control character or what is not UTF-8.
pub fn show_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Str(s) => {
            let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=');
            match std::str::from_utf8(s) {
                Ok(t) if !t.is_empty() && t.chars().all(plain) => out.extend_from_slice(s),
                _ => quoted(out, s),
            }
        }
        other => display(other, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(fields: Fields<'_>) -> String {
        let mut out = Vec::new();
        for f in fields {
            out.extend_from_slice(f.name);
            out.push(b'=');
            show_value(&f.value, &mut out);
            out.push(b' ');
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn static_and_dynamic_fields_and_spans() {
        let (mut inner, mut dynamic, mut spans) = ([0; 64], [0; 200], [0; 200]);
        let mut inner = DynFields::new(&mut inner);
        inner.field(b"n", Value::Signed(-7, 16));
        let mut d = DynFields::new(&mut dynamic);
        d.field(b"a", Value::Unsigned(u128::MAX));
        d.field(b"b", Value::Str(b"two words"));
        d.field(b"c", Value::Char('\u{e9}'));
        d.field(b"d", Value::Bool(true));
        d.field(b"e", Value::F64(0.5));
        d.field(b"f", Value::Signed(i128::MIN, 128));
        let mut s = DynFields::new(&mut spans);
        s.span(b"outer", 3, inner.bytes());
        s.span(b"inner", 4, b"");
        // One argument of the message, then user, *, *spans, last.
        let types = [ty::U8, ty::STR, ty::STR, ty::STR, ty::F32];
        let mut payload = vec![9];
        for t in [&b"me"[..], d.bytes(), s.bytes()] {
            payload.extend((t.len() as u32).to_le_bytes());
            payload.extend(t);
        }
        payload.extend(1.5f32.to_le_bytes());
        let all = Fields::new(&types, 1, b"user\0*\0*spans\0last\0", &payload);
        let max = u128::MAX;
        let min = i128::MIN;
        let expected = format!("user=me a={max} b=\"two words\" c=\u{e9} d=true e=0.5 f={min} last=1.5 ");
        assert_eq!(text(all.clone()), expected);
        let spans: Vec<_> = all.clone().spans().map(|s| (s.name.to_vec(), s.id, text(s.fields))).collect();
        assert_eq!(spans, [(b"outer".to_vec(), 3, "n=-7 ".into()), (b"inner".to_vec(), 4, "".into())]);
        // Any cut is an end, not a panic.
        for n in 0..payload.len() {
            let cut = Fields::new(&types, 1, b"user\0*\0*spans\0last\0", &payload[..n]);
            assert!(expected.starts_with(&text(cut.clone())));
            assert_eq!(cut.spans().count(), if n >= payload.len() - 4 { 2 } else { 0 });
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_whole() {
        let mut room = [0; 20];
        let mut d = DynFields::new(&mut room);
        d.field(b"long", Value::Str(b"0123456789"));
        d.field(b"a", Value::Unsigned(1));
        d.field(b"b", Value::Unsigned(2));
        d.span(b"s", 1, b"");
        assert_eq!(d.left_out(), 3);
        assert_eq!(text(Fields::dynamic(d.bytes())), "a=1 ");
    }
}
