//! Reading a payload. Nothing in it is trusted.

use crate::layout::site::ty;
use std::fmt;

/// One argument as it was stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A signed integer, and the bits of its type (8 to 128).
    Signed(i128, u32),
    /// An unsigned integer.
    Unsigned(u128),
    /// An f32.
    F32(f32),
    /// An f64.
    F64(f64),
    /// A bool.
    Bool(bool),
    /// A char.
    Char(char),
    /// A string: UTF-8, if its writer kept to the rules.
    Str(&'a [u8]),
}

/// What is wrong with a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// It ends inside an argument.
    Short,
    /// It goes on behind the last argument.
    Trailing,
    /// A type code that does not exist.
    Type(u8),
    /// A bool that is neither 0 nor 1.
    Bool(u8),
    /// A char that is no Unicode scalar value.
    Char(u32),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Short => f.write_str("payload is cut short"),
            DecodeError::Trailing => f.write_str("payload goes on behind the last argument"),
            DecodeError::Type(t) => write!(f, "unknown argument type {t}"),
            DecodeError::Bool(b) => write!(f, "bool has the value {b}"),
            DecodeError::Char(c) => write!(f, "char has the value {c:#x}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// The arguments of a payload, in order. An error is the last thing that comes.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    pub(super) types: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Values<'a> {
    /// Of a payload with these argument types.
    pub fn new(types: &'a [u8], payload: &'a [u8]) -> Self {
        Values { types, payload }
    }

    /// One value of this type at the beginning of `bytes`, and what is behind it.
    pub fn first(t: u8, bytes: &'a [u8]) -> Result<(Value<'a>, &'a [u8]), DecodeError> {
        let mut one = Values { types: &[], payload: bytes };
        let value = one.value(t)?;
        Ok((value, one.payload))
    }

    #[inline(always)]
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.payload.split_first_chunk().ok_or(DecodeError::Short)?;
        self.payload = rest;
        Ok(*bytes)
    }

    /// A string.
    #[inline(always)]
    pub(super) fn text(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = u32::from_le_bytes(self.take()?) as usize;
        let (text, rest) = self.payload.split_at_checked(len).ok_or(DecodeError::Short)?;
        self.payload = rest;
        Ok(text)
    }

    #[inline(always)]
    fn value(&mut self, t: u8) -> Result<Value<'a>, DecodeError> {
        Ok(match t {
            ty::I8 => Value::Signed(i8::from_le_bytes(self.take()?).into(), 8),
            ty::I16 => Value::Signed(i16::from_le_bytes(self.take()?).into(), 16),
            ty::I32 => Value::Signed(i32::from_le_bytes(self.take()?).into(), 32),
            ty::I64 => Value::Signed(i64::from_le_bytes(self.take()?).into(), 64),
            ty::I128 => Value::Signed(i128::from_le_bytes(self.take()?), 128),
            ty::U8 => Value::Unsigned(u8::from_le_bytes(self.take()?).into()),
            ty::U16 => Value::Unsigned(u16::from_le_bytes(self.take()?).into()),
            ty::U32 => Value::Unsigned(u32::from_le_bytes(self.take()?).into()),
            ty::U64 => Value::Unsigned(u64::from_le_bytes(self.take()?).into()),
            ty::U128 => Value::Unsigned(u128::from_le_bytes(self.take()?)),
            ty::F32 => Value::F32(f32::from_le_bytes(self.take()?)),
            ty::F64 => Value::F64(f64::from_le_bytes(self.take()?)),
            ty::BOOL => match self.take()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [b] => return Err(DecodeError::Bool(b)),
            },
            ty::CHAR => {
                let c = u32::from_le_bytes(self.take()?);
                Value::Char(char::from_u32(c).ok_or(DecodeError::Char(c))?)
            }
            ty::STR => Value::Str(self.text()?),
            t => return Err(DecodeError::Type(t)),
        })
    }

    fn end(&mut self, e: DecodeError) -> Option<Result<Value<'a>, DecodeError>> {
        *self = Values { types: &[], payload: &[] };
        Some(Err(e))
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Result<Value<'a>, DecodeError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let Some((&t, rest)) = self.types.split_first() else {
            return if self.payload.is_empty() { None } else { self.end(DecodeError::Trailing) };
        };
        self.types = rest;
        match self.value(t) {
            Ok(v) => Some(Ok(v)),
            Err(e) => self.end(e),
        }
    }
}
