/*
 * _spillring: the C part of the Python package `spillring`, over include/spillring.h.
 *
 * One extension for every CPython from 3.9 on (the limited API), with libspillring linked into it.
 *
 * What a record takes on its way is here, and Python code runs on that way only where the record asks for it:
 * str() of its arguments, filters, a formatter. No lock is taken and nothing global is held open while such
 * code runs, so that it may log as well: from a finaliser, a signal handler, __str__. The interpreter's lock
 * (GIL) is held during a log call, which does not wait; where a thread has asked to wait for room
 * (thread_may_wait), it is let go.
 *
 * Objects that stay for ever (names, the types) are static: sub-interpreters with a GIL of their own are
 * refused by the import.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x03090000
#include <Python.h>
#include <spillring.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>

#if PY_VERSION_HEX < 0x030A0000 || Py_LIMITED_API < 0x030A0000
/* Part of the limited API since 3.10, and the same function in 3.9. */
PyAPI_FUNC(const char *) PyUnicode_AsUTF8AndSize(PyObject *unicode, Py_ssize_t *size);
#endif

/* Limits: bytes of a message, of the value of a field, of all fields of a record. A record has at most 16
 * MiB. What is longer is cut, and a field `cut` says by how many bytes. */
#define MAX_MESSAGE (8u << 20)
#define MAX_VALUE (1u << 20)
#define MAX_FIELDS (4u << 20)

/* Records that the reader takes at a time without the GIL, and about how many bytes of them. */
#define READ_RECORDS 256
#define READ_BYTES (1u << 20)

/* The longest wait (ms) without a look at signals. */
#define SLICE 100

static PyObject *Error;
static PyTypeObject *record_type, *counters_type;
static PyObject *s_dict, *s_filter, *s_emit, *s_format, *s_report, *s_get_message, *s_format_exception,
    *s_code, *s_name;
static PyObject *log_record; /* logging.LogRecord */
static PyObject *formatter;  /* a logging.Formatter, for exceptions */
static PyObject *known;      /* attributes of a LogRecord: not fields */
static PyObject *unset;      /* what a context variable without a value answers */
static int waiting_threads;  /* threads that thread_may_wait was called on, ever */
static __thread bool may_wait __attribute__((tls_model("initial-exec")));

static PyObject *ref(PyObject *o) {
    Py_INCREF(o);
    return o;
}

/* == errors == */

static const struct {
    int code;
    const char *name;
} codes[] = {
#define CODE(name) {SPR_##name, "SPR_" #name}
    CODE(E_OS),           CODE(E_NO_CHANNEL),    CODE(E_PERMISSION),
    CODE(E_NO_SPACE),     CODE(E_BAD_FILE),      CODE(E_VERSION),
    CODE(E_ARCH),         CODE(E_DRAIN_RUNNING), CODE(E_OTHER_JOURNAL),
    CODE(E_DAMAGED),      CODE(E_BAD_VALUE),     CODE(E_TOO_LARGE),
    CODE(E_TIMEOUT),      CODE(E_FILE_LIMIT),    CODE(E_WOULD_BLOCK),
    CODE(E_NOT_ATTACHED), CODE(E_NULL),          CODE(E_ARGUMENT),
    CODE(E_SIZE),         CODE(E_CLOSED),        CODE(E_BUSY),
    CODE(E_LOST),         CODE(E_PANIC),         CODE(E_END),
    CODE(E_LIMIT),        CODE(E_ALREADY),
#undef CODE
};

/* Raises spillring.Error with this text. Always NULL. */
static PyObject *fail_with(int code, const char *text) {
    const char *name = "";
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i].code == code)
            name = codes[i].name;
    PyObject *e = PyObject_CallFunction(Error, "s", text);
    PyObject *number = PyLong_FromLong(code), *word = PyUnicode_FromString(name);
    if (e && number && word && PyObject_SetAttr(e, s_code, number) == 0 &&
        PyObject_SetAttr(e, s_name, word) == 0)
        PyErr_SetObject(Error, e);
    Py_XDECREF(e);
    Py_XDECREF(number);
    Py_XDECREF(word);
    return NULL;
}

/* Raises what the library has to say about its last call. Always NULL. */
static PyObject *fail(int code) {
    char text[1024] = "";
    if (spr_error_message(text, sizeof text, NULL) != SPR_OK || !*text)
        return fail_with(code, spr_strerror(code));
    return fail_with(code, text);
}

/* == texts == */

/* The UTF-8 of a string, and in *hold (NULL before) what keeps it. A lone surrogate becomes \udcXX. */
static const char *utf8(PyObject *text, Py_ssize_t *len, PyObject **hold) {
    const char *s = PyUnicode_AsUTF8AndSize(text, len);
    if (s)
        return s;
    if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
        return NULL;
    PyErr_Clear();
    char *bytes;
    *hold = PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace");
    if (!*hold || PyBytes_AsStringAndSize(*hold, &bytes, len) != 0)
        return NULL;
    return bytes;
}

/* At most so many bytes of it, ending between two characters. */
static size_t cut_to(const char *s, size_t len, size_t most) {
    if (len <= most)
        return len;
    while (most > 0 && ((unsigned char)s[most] & 0xc0) == 0x80)
        most--;
    return most;
}

/* True if the exception that is set is one that a log call does not pass on. */
static bool ours_to_report(void) {
    return PyErr_ExceptionMatches(PyExc_Exception) && !PyErr_ExceptionMatches(PyExc_RecursionError);
}

/* str(o), or what to say instead if it raises. NULL: raised what is to be passed on. */
static PyObject *text_of(PyObject *o) {
    PyObject *s = PyObject_Str(o);
    if (s || !ours_to_report())
        return s;
    PyErr_Clear();
    PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(o), "__name__");
    s = name ? PyUnicode_FromFormat("<%U: its str() raised>", name) : NULL;
    Py_XDECREF(name);
    return s;
}

/* == fields that only the call knows == */

struct fields {
    spr_fields f;
    uint64_t cut; /* bytes that were left out */
    unsigned char *heap;
    unsigned char first[1024];
};

static void fields_begin(struct fields *b) {
    b->heap = NULL;
    b->cut = 0;
    spr_fields_init(&b->f, b->first, sizeof b->first);
}

static int fields_add(struct fields *b, const char *name, size_t name_len, int type, const spr_value *v) {
    for (;;) {
        int code = spr_fields_add(&b->f, name, name_len, type, v);
        if (code != SPR_E_NO_SPACE)
            return code == SPR_OK ? 0 : (fail(code), -1);
        size_t size = type == SPR_T_STR ? v[1].u : 16;
        size_t want = (b->f.size + name_len + size + 16) * 2;
        if (want > 2 * MAX_FIELDS) {
            b->cut += size;
            return 0;
        }
        unsigned char *more = realloc(b->heap, want);
        if (!more) {
            b->cut += size;
            return 0;
        }
        if (!b->heap)
            memcpy(more, b->first, b->f.used);
        b->heap = more;
        b->f.data = more;
        b->f.size = want;
    }
}

static int fields_str(struct fields *b, const char *name, size_t name_len, PyObject *text) {
    PyObject *hold = NULL;
    Py_ssize_t len;
    const char *s = utf8(text, &len, &hold);
    int result = -1;
    if (s) {
        size_t n = cut_to(s, (size_t)len, MAX_VALUE);
        b->cut += (size_t)len - n;
        spr_value v[2] = {{.p = s}, {.u = n}};
        result = fields_add(b, name, name_len, SPR_T_STR, v);
    }
    Py_XDECREF(hold);
    return result;
}

static int fields_value(struct fields *b, const char *name, size_t name_len, PyObject *value) {
    spr_value v;
    if (PyBool_Check(value)) {
        v.u = value == Py_True;
        return fields_add(b, name, name_len, SPR_T_BOOL, &v);
    }
    if (PyFloat_CheckExact(value)) {
        v.f = PyFloat_AsDouble(value);
        return fields_add(b, name, name_len, SPR_T_F64, &v);
    }
    if (PyLong_CheckExact(value)) {
        int overflow;
        v.i = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow == 0)
            return fields_add(b, name, name_len, SPR_T_I64, &v);
        if (overflow > 0) {
            v.u = PyLong_AsUnsignedLongLong(value);
            if (!PyErr_Occurred())
                return fields_add(b, name, name_len, SPR_T_U64, &v);
            PyErr_Clear();
        }
    }
    PyObject *text = PyUnicode_CheckExact(value) ? ref(value) : text_of(value);
    if (!text)
        return -1;
    int result = fields_str(b, name, name_len, text);
    Py_DECREF(text);
    return result;
}

/* A field whose name is an object (of any type: `extra` may hold any). */
static int fields_named(struct fields *b, PyObject *name, PyObject *value) {
    PyObject *text = PyUnicode_Check(name) ? ref(name) : text_of(name), *hold = NULL;
    Py_ssize_t len;
    const char *s = text ? utf8(text, &len, &hold) : NULL;
    int result = s ? fields_value(b, s, cut_to(s, (size_t)len, 65535), value) : -1;
    Py_XDECREF(hold);
    Py_XDECREF(text);
    return result;
}

/* == what a LogRecord says == */

enum { NAME, MSG, ARGS, LEVELNAME, LEVELNO, PATHNAME, LINENO, EXC_INFO, EXC_TEXT, STACK_INFO, WANTED };
static const char *const wanted_names[WANTED] = {"name",     "msg",    "args",     "levelname", "levelno",
                                                 "pathname", "lineno", "exc_info", "exc_text",  "stack_info"};
static PyObject *wanted[WANTED];

/* The attributes that LogRecord.__init__ sets, in its order, and which of them are wanted. A record made by
 * it has these very keys in this order, so that one pass without a look-up finds them, and what stands behind
 * is `extra`. */
#define MAX_KEYS 64
static PyObject *keys[MAX_KEYS];
static signed char roles[MAX_KEYS];
static int n_keys;

struct facts {
    PyObject *dict;
    PyObject *v[WANTED]; /* NULL: the record has no such attribute */
    bool usual;          /* the first n_keys entries are LogRecord's own */
    bool extras;         /* there may be fields among them */
};

static void facts_end(struct facts *f) {
    for (int i = 0; i < WANTED; i++)
        Py_XDECREF(f->v[i]);
    Py_XDECREF(f->dict);
}

static int facts_of(PyObject *record, struct facts *f) {
    memset(f, 0, sizeof *f);
    f->dict = PyObject_GetAttr(record, s_dict);
    if (!f->dict)
        return -1;
    if (!PyDict_Check(f->dict)) {
        PyErr_SetString(PyExc_TypeError, "a log record whose __dict__ is no dict");
        return -1;
    }
    PyObject *key, *value;
    Py_ssize_t at = 0;
    int i = 0;
    while (i < n_keys && PyDict_Next(f->dict, &at, &key, &value) && key == keys[i]) {
        if (roles[i] >= 0)
            f->v[(int)roles[i]] = value;
        i++;
    }
    f->usual = i == n_keys;
    f->extras = !f->usual || PyDict_Next(f->dict, &at, &key, &value);
    if (!f->usual)
        for (i = 0; i < WANTED; i++) {
            f->v[i] = PyDict_GetItemWithError(f->dict, wanted[i]);
            if (!f->v[i] && PyErr_Occurred()) {
                memset(f->v, 0, sizeof f->v); /* borrowed so far */
                return -1;
            }
        }
    for (i = 0; i < WANTED; i++)
        Py_XINCREF(f->v[i]);
    return 0;
}

static bool is_set(PyObject *o) { return o && o != Py_None; }

static long number_of(PyObject *o) {
    if (!o || !PyLong_Check(o))
        return 0;
    long n = PyLong_AsLong(o);
    if (n == -1 && PyErr_Occurred())
        PyErr_Clear();
    return n;
}

static int level_of(long levelno) {
    return levelno >= 40   ? SPR_LEVEL_ERROR
           : levelno >= 30 ? SPR_LEVEL_WARN
           : levelno >= 20 ? SPR_LEVEL_INFO
           : levelno >= 10 ? SPR_LEVEL_DEBUG
                           : SPR_LEVEL_TRACE;
}

/* Whether its level says it all. */
static bool has_level(long levelno) {
    return levelno == 5 || levelno == 10 || levelno == 20 || levelno == 30 || levelno == 40;
}

/* What record.getMessage() answers; without a call of Python where the record is no subclass's. */
static PyObject *message_of(PyObject *record, const struct facts *f) {
    if ((PyObject *)Py_TYPE(record) != log_record || !f->v[MSG] || !f->v[ARGS])
        return PyObject_CallMethodObjArgs(record, s_get_message, NULL);
    PyObject *msg = PyUnicode_CheckExact(f->v[MSG]) ? ref(f->v[MSG]) : PyObject_Str(f->v[MSG]);
    if (!msg)
        return NULL;
    PyObject *args = f->v[ARGS];
    int any = args == Py_None ? 0 : PyTuple_CheckExact(args) ? PyTuple_Size(args) > 0 : PyObject_IsTrue(args);
    if (any == 0)
        return msg;
    PyObject *text = any < 0                     ? NULL
                     : PyUnicode_CheckExact(msg) ? PyUnicode_Format(msg, args)
                                                 : PyNumber_Remainder(msg, args);
    Py_DECREF(msg);
    return text;
}

/* == sites == */

/* The sites used lately, by the objects that make them: a program has few of these, and they stay. The site
 * is the library's, so that a loss of this cache costs one look-up there. */
#define CACHE 4096
static struct slot {
    PyObject *name, *path; /* kept, so that no other object gets their address */
    long line;
    int level;
    const spr_site *sites[2]; /* without fields, with */
} cache[CACHE];

static const unsigned char types[] = {SPR_T_STR, SPR_T_STR};

/* For records whose site the library has no more room for: what makes it stands in their fields. */
#define GENERAL(level)                                                                                       \
    {0, 0, 0, {0}, "", "", "{}", "*", types, 0, 0, 2, 2, level, SPR_STYLE_BRACE, 2, SPR_SITE_ABI, 0}
static spr_site general[] = {GENERAL(SPR_LEVEL_TRACE), GENERAL(SPR_LEVEL_DEBUG), GENERAL(SPR_LEVEL_INFO),
                             GENERAL(SPR_LEVEL_WARN), GENERAL(SPR_LEVEL_ERROR)};

/* The site of these facts; *out is NULL if there is no room for it. */
static int find_site(PyObject *name, PyObject *path, long line, int level, int with_fields,
                     const spr_site **out) {
    uintptr_t h = ((uintptr_t)name >> 4) * 31 + ((uintptr_t)path >> 4) * 17 + (uintptr_t)line * 0x9e3779b1u;
    struct slot *slot = &cache[(h ^ h >> 15 ^ (uintptr_t)level) % CACHE];
    bool mine = slot->name == name && slot->path == path && slot->line == line && slot->level == level;
    if (mine && slot->sites[with_fields]) {
        *out = slot->sites[with_fields];
        return 0;
    }
    PyObject *hold[2] = {NULL, NULL};
    Py_ssize_t name_len, path_len;
    const char *name_text = utf8(name, &name_len, &hold[0]);
    const char *path_text = name_text ? utf8(path, &path_len, &hold[1]) : NULL;
    int result = -1;
    if (path_text) {
        /* The library keeps the end of a long path, and the beginning of a long name. */
        if (path_len > 4096) {
            path_text += path_len - 4096;
            path_len = 4096;
        }
        spr_site facts = {.line = line < 0 || line > UINT32_MAX ? 0 : (uint32_t)line,
                          .file = path_text,
                          .file_len = (uint16_t)path_len,
                          .target = name_text,
                          .target_len = (uint16_t)(name_len > 4096 ? 4096 : name_len),
                          .fmt = "{}",
                          .fmt_len = 2,
                          .fields = "*",
                          .fields_len = with_fields ? 2 : 0,
                          .types = types,
                          .n_args = (uint8_t)(1 + with_fields),
                          .level = (uint8_t)level,
                          .style = SPR_STYLE_BRACE,
                          .abi = SPR_SITE_ABI};
        int code = spr_site_intern(&facts, out);
        result = 0;
        if (code == SPR_E_LIMIT || code == SPR_E_NO_SPACE) {
            *out = NULL;
        } else if (code != SPR_OK) {
            fail(code);
            result = -1;
        } else {
            if (!mine) {
                PyObject *old[2] = {slot->name, slot->path};
                *slot = (struct slot){ref(name), ref(path), line, level, {NULL, NULL}};
                Py_XDECREF(old[0]);
                Py_XDECREF(old[1]);
            }
            slot->sites[with_fields] = *out;
        }
    }
    Py_XDECREF(hold[0]);
    Py_XDECREF(hold[1]);
    return result;
}

/* == the handler == */

/* The base of spillring.Handler, before logging.Handler in its MRO: so `filters` and `formatter` that logging
 * sets are members here. */
typedef struct {
    PyObject_HEAD PyObject *filters;
    PyObject *formatter;
    PyObject *vars;  /* tuple: name, bound `get`, name, ... of context variables */
    char own_emit;   /* a subclass has an emit of its own */
    char own_format; /* ... a format of its own */
} Emitter;

/* All fields of a record. `texts`: exception and stack are not in the message. */
static int collect(Emitter *self, const struct facts *f, long levelno, bool texts, struct fields *b) {
    Py_ssize_t n = self->vars ? PyTuple_Size(self->vars) : 0;
    for (Py_ssize_t i = 0; i + 1 < n; i += 2) {
        PyObject *value = PyObject_CallFunctionObjArgs(PyTuple_GetItem(self->vars, i + 1), unset, NULL);
        int r = !value ? -1 : value == unset ? 0 : fields_named(b, PyTuple_GetItem(self->vars, i), value);
        Py_XDECREF(value);
        if (r != 0)
            return -1;
    }
    if (f->extras) {
        /* A copy: the text of a value is made by code that may change the record. */
        PyObject *all = PyDict_Copy(f->dict), *key, *value;
        Py_ssize_t at = 0;
        int r = all ? 0 : -1;
        for (int i = 0; r == 0 && PyDict_Next(all, &at, &key, &value); i++) {
            if (f->usual && i < n_keys)
                continue;
            int skip = PySet_Contains(known, key);
            r = skip < 0 ? -1 : skip ? 0 : fields_named(b, key, value);
        }
        Py_XDECREF(all);
        if (r != 0)
            return -1;
    }
    if (!has_level(levelno) && f->v[LEVELNAME] && fields_value(b, "levelname", 9, f->v[LEVELNAME]) != 0)
        return -1;
    if (!texts)
        return 0;
    if (is_set(f->v[EXC_TEXT])) {
        if (fields_value(b, "exception", 9, f->v[EXC_TEXT]) != 0)
            return -1;
    } else if (f->v[EXC_INFO] && PyTuple_Check(f->v[EXC_INFO])) {
        PyObject *text = PyObject_CallMethodObjArgs(formatter, s_format_exception, f->v[EXC_INFO], NULL);
        int r = text ? fields_value(b, "exception", 9, text) : -1;
        Py_XDECREF(text);
        if (r != 0)
            return -1;
    }
    return is_set(f->v[STACK_INFO]) ? fields_value(b, "stack", 5, f->v[STACK_INFO]) : 0;
}

/* Logs the text with the fields (NULL: none). */
static int send(const struct facts *f, int level, PyObject *text, struct fields *b) {
    PyObject *name = f->v[NAME], *path = f->v[PATHNAME], *hold = NULL;
    name = name && PyUnicode_CheckExact(name) ? ref(name) : text_of(name ? name : Py_None);
    path = path && PyUnicode_CheckExact(path) ? ref(path) : text_of(path ? path : Py_None);
    long line = number_of(f->v[LINENO]);
    struct fields own;
    const spr_site *site = NULL;
    Py_ssize_t len;
    const char *s = name && path ? utf8(text, &len, &hold) : NULL;
    int result = -1;
    own.heap = NULL;
    if (!s)
        goto end;
    size_t n = cut_to(s, (size_t)len, MAX_MESSAGE);
    if (!b && n < (size_t)len) {
        fields_begin(&own);
        b = &own;
    }
    if (b)
        b->cut += (size_t)len - n;
    if (find_site(name, path, line, level, b != NULL, &site) != 0)
        goto end;
    if (!site) {
        site = &general[level - 1];
        if (!b) {
            fields_begin(&own);
            b = &own;
        }
        spr_value v = {.i = line};
        if (fields_str(b, "logger", 6, name) != 0 || fields_str(b, "file", 4, path) != 0 ||
            fields_add(b, "line", 4, SPR_T_I64, &v) != 0)
            goto end;
    }
    if (b && b->cut) {
        /* There is always room for it: what did not fit was larger. */
        spr_value v = {.u = b->cut};
        if (fields_add(b, "cut", 3, SPR_T_U64, &v) != 0)
            goto end;
    }
    spr_value values[4] = {{.p = s}, {.u = n}, {.p = b ? b->f.data : NULL}, {.u = b ? b->f.used : 0}};
    int code;
    if (waiting_threads && may_wait) {
        Py_BEGIN_ALLOW_THREADS code = spr_log(site, values);
        Py_END_ALLOW_THREADS
    } else {
        code = spr_log(site, values);
    }
    /* What was lost, or found no ring, is counted by the library. */
    result = code == SPR_OK || code == SPR_E_LOST || code == SPR_E_NOT_ATTACHED ? 0 : (fail(code), -1);
end:
    free(own.heap);
    Py_XDECREF(hold);
    Py_XDECREF(name);
    Py_XDECREF(path);
    return result;
}

/* Logs what can be had of a record whose message could not be made; the exception that says why stays set. */
static int send_raw(Emitter *self, const struct facts *f, long levelno, int level) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    struct fields b;
    fields_begin(&b);
    PyObject *why = value ? PyObject_Repr(value) : NULL;
    PyObject *args = why && f->v[ARGS] ? PyObject_Repr(f->v[ARGS]) : NULL;
    PyErr_Clear();
    PyObject *text = f->v[MSG] ? text_of(f->v[MSG]) : PyUnicode_FromString("");
    int r = text ? collect(self, f, levelno, true, &b) : -1;
    if (r == 0 && args)
        r = fields_str(&b, "args", 4, args);
    if (r == 0 && why)
        r = fields_str(&b, "log_error", 9, why);
    if (r != 0)
        PyErr_Clear(); /* the first exception is the one to tell; what fields there are go with the record */
    if (text && send(f, level, text, &b) != 0)
        PyErr_Clear();
    free(b.heap);
    Py_XDECREF(text);
    Py_XDECREF(args);
    Py_XDECREF(why);
    PyErr_Restore(type, value, traceback);
    return -1;
}

static int log_one(Emitter *self, PyObject *record) {
    struct facts f;
    PyObject *text = NULL;
    struct fields b;
    b.heap = NULL;
    int result = -1;
    if (facts_of(record, &f) != 0)
        goto end;
    long levelno = number_of(f.v[LEVELNO]);
    int level = level_of(levelno);
    if (!spr_enabled(level)) {
        result = 0;
        goto end;
    }
    bool formatted = self->own_format || is_set(self->formatter);
    text = formatted ? PyObject_CallMethodObjArgs((PyObject *)self, s_format, record, NULL)
                     : message_of(record, &f);
    if (text && !PyUnicode_Check(text)) {
        PyObject *shown = text_of(text);
        Py_DECREF(text);
        text = shown;
    }
    if (!text) {
        result = ours_to_report() ? send_raw(self, &f, levelno, level) : -1;
        goto end;
    }
    bool fields = f.extras || self->vars || !has_level(levelno) || is_set(f.v[EXC_TEXT]) ||
                  is_set(f.v[EXC_INFO]) || is_set(f.v[STACK_INFO]);
    if (fields) {
        fields_begin(&b);
        if (collect(self, &f, levelno, !formatted, &b) != 0) {
            /* The record goes on without the rest of them. */
            PyObject *type, *value, *traceback;
            if (!ours_to_report())
                goto end;
            PyErr_Fetch(&type, &value, &traceback);
            if (send(&f, level, text, b.f.used ? &b : NULL) != 0)
                PyErr_Clear();
            PyErr_Restore(type, value, traceback);
            goto end;
        }
    }
    result = send(&f, level, text, fields && (b.f.used || b.cut) ? &b : NULL);
end:
    free(b.heap);
    Py_XDECREF(text);
    facts_end(&f);
    return result;
}

/* handler._report(record, exception), which calls handleError as logging does: while that exception is
 * handled. (It looks at the traceback, which an exception raised in C has only once Python code has raised it
 * again.) */
static int handle_error(PyObject *self, PyObject *record) {
    PyObject *type, *value, *traceback, *r = NULL;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value && (!traceback || PyException_SetTraceback(value, traceback) == 0))
        r = PyObject_CallMethodObjArgs(self, s_report, record, value, NULL);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    Py_XDECREF(r);
    return r ? 0 : -1;
}

static PyObject *emitter_emit(PyObject *self, PyObject *record) {
    if (log_one((Emitter *)self, record) != 0 && (!ours_to_report() || handle_error(self, record) != 0))
        return NULL;
    return ref(Py_None);
}

static PyObject *emitter_handle(PyObject *self, PyObject *record) {
    Emitter *e = (Emitter *)self;
    PyObject *now = ref(record);
    if (e->filters && !(PyList_Check(e->filters) && PyList_Size(e->filters) == 0)) {
        PyObject *let = PyObject_CallMethodObjArgs(self, s_filter, record, NULL);
        int yes = let ? PyObject_IsTrue(let) : -1;
        if (yes <= 0) {
            Py_DECREF(now);
            if (yes < 0)
                Py_CLEAR(let);
            return let;
        }
        /* Since 3.12 a filter may answer another record. */
        int other = let == Py_True ? 0 : PyObject_IsInstance(let, log_record);
        if (other > 0) {
            Py_DECREF(now);
            now = ref(let);
        }
        Py_DECREF(let);
        if (other < 0) {
            Py_DECREF(now);
            return NULL;
        }
    }
    PyObject *r = e->own_emit ? PyObject_CallMethodObjArgs(self, s_emit, now, NULL) : emitter_emit(self, now);
    if (!r) {
        Py_DECREF(now);
        return NULL;
    }
    Py_DECREF(r);
    return now;
}

static PyObject *emitter_configure(PyObject *self, PyObject *args) {
    Emitter *e = (Emitter *)self;
    PyObject *vars, *old = e->vars;
    int own_emit, own_format;
    if (!PyArg_ParseTuple(args, "O!pp:_configure", &PyTuple_Type, &vars, &own_emit, &own_format))
        return NULL;
    e->vars = PyTuple_Size(vars) > 0 ? ref(vars) : NULL;
    e->own_emit = (char)own_emit;
    e->own_format = (char)own_format;
    Py_XDECREF(old);
    return ref(Py_None);
}

static int emitter_traverse(PyObject *self, visitproc visit, void *arg) {
    Emitter *e = (Emitter *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(e->filters);
    Py_VISIT(e->formatter);
    Py_VISIT(e->vars);
    return 0;
}

static int emitter_clear(PyObject *self) {
    Emitter *e = (Emitter *)self;
    Py_CLEAR(e->filters);
    Py_CLEAR(e->formatter);
    Py_CLEAR(e->vars);
    return 0;
}

static void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc f = (freefunc)PyType_GetSlot(type, Py_tp_free);
    f(self);
    Py_DECREF(type);
}

static void emitter_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    emitter_clear(self);
    free_object(self);
}

static PyMethodDef emitter_methods[] = {
    {"handle", emitter_handle, METH_O,
     "handle($self, record, /)\n--\n\nLog the record if the filters let it through. Takes no lock."},
    {"emit", emitter_emit, METH_O, "emit($self, record, /)\n--\n\nLog the record. Takes no lock."},
    {"_configure", emitter_configure, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef emitter_members[] = {
    {"filters", T_OBJECT, offsetof(Emitter, filters), 0, NULL},
    {"formatter", T_OBJECT, offsetof(Emitter, formatter), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot emitter_slots[] = {
    {Py_tp_doc, (void *)"The base of spillring.Handler."},
    {Py_tp_methods, emitter_methods},
    {Py_tp_members, emitter_members},
    {Py_tp_traverse, (void *)emitter_traverse},
    {Py_tp_clear, (void *)emitter_clear},
    {Py_tp_dealloc, (void *)emitter_dealloc},
    {0, NULL},
};

static PyType_Spec emitter_spec = {"spillring._spillring.Emitter", sizeof(Emitter), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                                   emitter_slots};

/* == the reader == */

/* A record as it was read, its strings and fields behind it in `bytes`. */
struct entry {
    spr_record r;
    size_t message, file, target, thread, fields; /* where they begin */
};

struct entry_field {
    size_t name_len, text_len; /* the name, then the text, stand behind */
    spr_value value;
    int32_t type;
};

typedef struct {
    PyObject_HEAD spr_reader *reader;
    bool open, busy;
    char follow;
    double quiet; /* s without a record that end an iteration which follows; < 0: none */
    struct entry *entries;
    int n, next;
    int code; /* what ended the last reading, if it is to be told */
    unsigned char *bytes;
    size_t used, size;
} Reader;

/* A place for n bytes at a multiple of 8. False: no memory. */
static bool room(Reader *self, size_t n, size_t *at) {
    size_t need = self->used + n + 8;
    if (need > self->size) {
        size_t size = need < READ_BYTES ? READ_BYTES : need * 2;
        unsigned char *more = realloc(self->bytes, size);
        if (!more)
            return false;
        self->bytes = more;
        self->size = size;
    }
    *at = self->used;
    self->used += (n + 7) & ~(size_t)7;
    return true;
}

static bool keep(Reader *self, const char *s, size_t n, size_t *at) {
    if (!room(self, n, at))
        return false;
    if (n)
        memcpy(self->bytes + *at, s, n);
    return true;
}

/* Takes what there is, and waits (ms) for the first of it. Without the GIL. */
static void fill(Reader *self, uint32_t wait) {
    self->n = self->next = 0;
    self->used = 0;
    self->code = SPR_OK;
    while (self->n < READ_RECORDS && self->used < READ_BYTES) {
        struct entry *e = &self->entries[self->n];
        e->r = (spr_record)SPR_RECORD_INIT;
        self->code = spr_reader_next(self->reader, self->n ? 0 : wait, &e->r);
        if (self->code != SPR_OK)
            return;
        bool ok = keep(self, e->r.message, e->r.message_len, &e->message) &&
                  keep(self, e->r.file, e->r.file_len, &e->file) &&
                  keep(self, e->r.target, e->r.target_len, &e->target) &&
                  keep(self, e->r.thread, e->r.thread_len, &e->thread);
        e->fields = self->used;
        for (uint32_t i = 0; ok && i < e->r.n_fields; i++) {
            spr_field f = SPR_FIELD_INIT;
            self->code = spr_reader_field(self->reader, i, &f);
            if (self->code != SPR_OK)
                return;
            struct entry_field kept = {f.name_len, f.text_len, f.value, f.type};
            size_t at;
            ok = keep(self, (const char *)&kept, sizeof kept, &at) && keep(self, f.name, f.name_len, &at) &&
                 keep(self, f.text, f.text_len, &at);
        }
        if (!ok) {
            self->code = SPR_E_NO_SPACE;
            return;
        }
        self->n++;
    }
}

static PyObject *decode(const void *s, size_t n) {
    return PyUnicode_DecodeUTF8((const char *)s, (Py_ssize_t)n, "backslashreplace");
}

static PyObject *field_value(const struct entry_field *f, const unsigned char *text) {
    switch (f->type) {
    case SPR_T_I64:
        return PyLong_FromLongLong(f->value.i);
    case SPR_T_U64:
        return PyLong_FromUnsignedLongLong(f->value.u);
    case SPR_T_F64:
        return PyFloat_FromDouble(f->value.f);
    case SPR_T_BOOL:
        return PyBool_FromLong(f->value.u != 0);
    default:
        return decode(text, f->text_len);
    }
}

static PyObject *fields_dict(const Reader *self, const struct entry *e) {
    PyObject *all = PyDict_New();
    const unsigned char *p = self->bytes + e->fields;
    for (uint32_t i = 0; all && i < e->r.n_fields; i++) {
        const struct entry_field *f = (const struct entry_field *)p;
        p += (sizeof *f + 7) & ~(size_t)7;
        PyObject *name = decode(p, f->name_len);
        p += (f->name_len + 7) & ~(size_t)7;
        PyObject *value = field_value(f, p);
        p += (f->text_len + 7) & ~(size_t)7;
        if (!name || !value || PyDict_SetItem(all, name, value) != 0)
            Py_CLEAR(all);
        Py_XDECREF(name);
        Py_XDECREF(value);
    }
    return all;
}

static const char *kind_name(int kind) {
    switch (kind) {
    case SPR_KIND_LOG:
        return "log";
    case SPR_KIND_OUTPUT:
        return "output";
    case SPR_KIND_LOSS:
        return "loss";
    case SPR_KIND_NOTE:
        return "note";
    case SPR_KIND_GAP:
        return "gap";
    default:
        return "other";
    }
}

static PyStructSequence_Field record_fields[] = {
    {"number", "its number in the journal"},
    {"time", "seconds since 1970"},
    {"time_ns", "ns since 1970"},
    {"kind",
     "log, output (captured), loss (lost records stand for it), note (of the drain), gap (lost to a reader)"},
    {"level", "as in logging: 5 (trace), 10, 20, 30, 40; 0 = none"},
    {"logger", "name of the logger; in other languages: of the target"},
    {"message", "its text"},
    {"file", "source file"},
    {"line", "line in it"},
    {"pid", "process, in its own namespace"},
    {"tid", "thread, in its own namespace"},
    {"thread", "name of the thread, as the kernel knows it"},
    {"fields", "dict of the named values"},
    {"lost", "records that a loss or a gap stands for"},
    {NULL, NULL},
};

static PyStructSequence_Desc record_desc = {"spillring.Record", "A record of a journal.", record_fields, 14};

static PyObject *make_record(const Reader *self, const struct entry *e) {
    static const int levels[] = {0, 5, 10, 20, 30, 40};
    const spr_record *r = &e->r;
    PyObject *items[] = {
        PyLong_FromUnsignedLongLong(r->number),
        PyFloat_FromDouble((double)r->utc_ns / 1e9),
        PyLong_FromLongLong(r->utc_ns),
        PyUnicode_InternFromString(kind_name(r->kind)),
        PyLong_FromLong(r->level >= 0 && r->level <= 5 ? levels[r->level] : 0),
        decode(self->bytes + e->target, r->target_len),
        decode(self->bytes + e->message, r->message_len),
        decode(self->bytes + e->file, r->file_len),
        PyLong_FromUnsignedLong(r->line),
        PyLong_FromUnsignedLong(r->pid),
        PyLong_FromUnsignedLong(r->tid),
        decode(self->bytes + e->thread, r->thread_len),
        fields_dict(self, e),
        PyLong_FromUnsignedLongLong(r->lost),
    };
    PyObject *record = PyStructSequence_New(record_type);
    bool ok = record != NULL;
    for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
        ok = ok && items[i];
        if (record)
            PyStructSequence_SetItem(record, (Py_ssize_t)i, items[i]); /* takes the reference */
        else
            Py_XDECREF(items[i]);
    }
    if (!ok)
        Py_CLEAR(record);
    return record;
}

/* Seconds as ms for the library, at most so many. */
static uint32_t milliseconds(double s, uint32_t most) {
    return !(s > 0) ? 0 : s * 1000 >= most ? most : (uint32_t)(s * 1000 + 0.999);
}

static PyObject *monotonic; /* time.monotonic */

static double now(void) {
    PyObject *t = PyObject_CallFunctionObjArgs(monotonic, NULL);
    double s = t ? PyFloat_AsDouble(t) : -1;
    Py_XDECREF(t);
    return s;
}

/* The next record; NULL without an exception: none within so many seconds (< 0: for ever). */
static PyObject *reader_take(Reader *self, double seconds) {
    double until = -1;
    for (;;) {
        if (!self->open)
            return fail_with(SPR_E_CLOSED, "the reader is closed");
        if (self->busy)
            return fail_with(SPR_E_BUSY, "another thread is reading from this reader");
        if (self->next < self->n)
            return make_record(self, &self->entries[self->next++]);
        if (self->code != SPR_OK && self->code != SPR_E_TIMEOUT) {
            int code = self->code;
            self->code = SPR_OK;
            return code == SPR_E_END ? NULL : fail(code);
        }
        uint32_t wait = SLICE;
        if (seconds >= 0) {
            double t = seconds > 0 ? now() : 0;
            if (t < 0)
                return NULL;
            if (until < 0)
                until = t + seconds;
            else if (t >= until)
                return NULL;
            wait = milliseconds(until - t, SLICE);
        }
        self->busy = true;
        Py_BEGIN_ALLOW_THREADS fill(self, wait);
        Py_END_ALLOW_THREADS self->busy = false;
        if (self->n == 0 && self->code == SPR_E_TIMEOUT) {
            if (PyErr_CheckSignals() != 0 || seconds == 0)
                return NULL;
        }
    }
}

static PyObject *reader_next(PyObject *o) {
    Reader *self = (Reader *)o;
    return reader_take(self, self->follow ? self->quiet : 0);
}

/* A number of seconds, or None for -1. */
static int seconds_of(PyObject *o, double *out) {
    if (o == Py_None) {
        *out = -1;
        return 0;
    }
    *out = PyFloat_AsDouble(o);
    if (*out == -1 && PyErr_Occurred())
        return -1;
    if (!(*out >= 0)) {
        PyErr_SetString(PyExc_ValueError, "a timeout is a number of seconds, 0 or more");
        return -1;
    }
    return 0;
}

static PyObject *reader_read(PyObject *o, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"timeout", NULL};
    PyObject *timeout = NULL;
    double seconds = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:read", names, &timeout) ||
        (timeout && seconds_of(timeout, &seconds) != 0))
        return NULL;
    PyObject *r = reader_take((Reader *)o, seconds);
    return r || PyErr_Occurred() ? r : ref(Py_None);
}

static PyObject *reader_close(PyObject *o, PyObject *unused) {
    (void)unused;
    Reader *self = (Reader *)o;
    if (self->busy)
        return fail_with(SPR_E_BUSY, "another thread is reading from this reader");
    if (self->open) {
        self->open = false;
        spr_reader_close(self->reader);
    }
    return ref(Py_None);
}

static PyObject *reader_enter(PyObject *o, PyObject *unused) {
    (void)unused;
    return ref(o);
}

static PyObject *reader_exit(PyObject *o, PyObject *args) {
    (void)args;
    return reader_close(o, NULL);
}

/* Strings that the library takes: None, or bytes without a NUL in them (the package encodes paths). */
static int string_or_none(PyObject *o, const char **out) {
    char *s = NULL;
    if (o != Py_None && PyBytes_AsStringAndSize(o, &s, NULL) != 0)
        return -1;
    *out = s;
    return 0;
}

static int reader_init(PyObject *o, PyObject *args, PyObject *kwargs) {
    Reader *self = (Reader *)o;
    static char *names[] = {"journal", "dir",  "channel", "journal_dir", "start",
                            "last",    "wait", "follow",  "quiet",       NULL};
    PyObject *journal, *dir, *channel, *journal_dir, *quiet;
    unsigned start;
    unsigned long long last;
    int wait, follow;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOIKppO:Reader", names, &journal, &dir, &channel,
                                     &journal_dir, &start, &last, &wait, &follow, &quiet))
        return -1;
    if (self->open || self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "a reader is made once");
        return -1;
    }
    spr_reader_options options = SPR_READER_OPTIONS_INIT;
    if (string_or_none(journal, &options.journal) != 0 || string_or_none(dir, &options.dir) != 0 ||
        string_or_none(channel, &options.channel) != 0 ||
        string_or_none(journal_dir, &options.journal_dir) != 0 || seconds_of(quiet, &self->quiet) != 0)
        return -1;
    options.from = start;
    options.last = last;
    options.flags = wait ? SPR_READER_WAIT : 0;
    self->follow = (char)follow;
    if (!self->entries && !(self->entries = malloc(READ_RECORDS * sizeof *self->entries))) {
        PyErr_NoMemory();
        return -1;
    }
    int code;
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS code = spr_reader_open(&options, &self->reader);
    Py_END_ALLOW_THREADS self->busy = false;
    if (code != SPR_OK) {
        fail(code);
        return -1;
    }
    self->open = true;
    return 0;
}

static void reader_dealloc(PyObject *o) {
    Reader *self = (Reader *)o;
    if (self->open)
        spr_reader_close(self->reader);
    free(self->entries);
    free(self->bytes);
    free_object(o);
}

static PyMethodDef reader_methods[] = {
    {"read", (PyCFunction)(void (*)(void))reader_read, METH_VARARGS | METH_KEYWORDS,
     "read($self, timeout=0)\n--\n\nThe next record, or None if none comes within so many seconds (None: "
     "wait for ever)."},
    {"close", reader_close, METH_NOARGS, "close($self)\n--\n\nClose it. Again is no error."},
    {"__enter__", reader_enter, METH_NOARGS, NULL},
    {"__exit__", reader_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, (void *)"The base of spillring.Reader."},
    {Py_tp_init, (void *)reader_init},
    {Py_tp_iter, (void *)PyObject_SelfIter},
    {Py_tp_iternext, (void *)reader_next},
    {Py_tp_methods, reader_methods},
    {Py_tp_dealloc, (void *)reader_dealloc},
    {0, NULL},
};

static PyType_Spec reader_spec = {"spillring._spillring.Reader", sizeof(Reader), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, reader_slots};

/* == functions == */

static PyObject *py_init(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *dir, *channel, *journal_dir, *level, *overflow;
    unsigned long long lane_bytes;
    unsigned lanes;
    int drain;
    if (!PyArg_ParseTuple(args, "OOOOOKIp:init", &dir, &channel, &journal_dir, &level, &overflow, &lane_bytes,
                          &lanes, &drain))
        return NULL;
    spr_options o = SPR_OPTIONS_INIT;
    if (string_or_none(dir, &o.dir) != 0 || string_or_none(channel, &o.channel) != 0 ||
        string_or_none(journal_dir, &o.journal_dir) != 0 || string_or_none(level, &o.level) != 0 ||
        string_or_none(overflow, &o.overflow) != 0)
        return NULL;
    o.lane_bytes = lane_bytes;
    o.lanes = lanes;
    o.drain = drain ? 1 : 0;
    int code;
    /* With the GIL: two threads that begin at once are one after the other. */
    code = spr_init(&o);
    if (code == SPR_OK || code == SPR_E_ALREADY)
        return PyBool_FromLong(code == SPR_OK);
    return fail(code);
}

/* Waits by f, in slices, so that Ctrl-C ends it. */
static PyObject *wait_by(int (*f)(uint32_t), double seconds) {
    double until = now();
    if (until < 0)
        return NULL;
    until += seconds;
    for (;;) {
        double t = now();
        if (t < 0)
            return NULL;
        int code;
        uint32_t ms = milliseconds(until - t, SLICE);
        Py_BEGIN_ALLOW_THREADS code = f(ms);
        Py_END_ALLOW_THREADS if (code == SPR_OK) return ref(Py_True);
        if (code != SPR_E_TIMEOUT)
            return fail(code);
        if (PyErr_CheckSignals() != 0)
            return NULL;
        t = now();
        if (t < 0)
            return NULL;
        if (t >= until)
            return ref(Py_False);
    }
}

static PyObject *py_flush(PyObject *module, PyObject *timeout) {
    (void)module;
    double seconds;
    if (seconds_of(timeout, &seconds) != 0)
        return NULL;
    return wait_by(spr_flush, seconds < 0 ? 1e9 : seconds);
}

static PyObject *py_shutdown(PyObject *module, PyObject *timeout) {
    (void)module;
    double seconds;
    if (seconds_of(timeout, &seconds) != 0)
        return NULL;
    int code;
    uint32_t ms = milliseconds(seconds < 0 ? 1e9 : seconds, UINT32_MAX / 2);
    Py_BEGIN_ALLOW_THREADS code = spr_shutdown(ms);
    Py_END_ALLOW_THREADS if (code == SPR_OK || code == SPR_E_TIMEOUT) return PyBool_FromLong(code == SPR_OK);
    return fail(code);
}

static PyObject *py_drain_present(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    int yes = 0;
    int code = spr_drain_present(&yes);
    return code == SPR_OK ? PyBool_FromLong(yes) : fail(code);
}

static PyObject *py_thread_may_wait(PyObject *module, PyObject *o) {
    (void)module;
    int yes = PyObject_IsTrue(o);
    if (yes < 0)
        return NULL;
    int code = spr_thread_may_wait(yes);
    if (code != SPR_OK)
        return fail(code);
    waiting_threads = 1;
    may_wait = yes;
    return ref(Py_None);
}

static PyObject *py_prepare(PyObject *module, PyObject *o) {
    (void)module;
    unsigned long n = PyLong_AsUnsignedLong(o);
    if (PyErr_Occurred())
        return NULL;
    uint32_t have = 0;
    int code = spr_prepare(n > UINT32_MAX ? UINT32_MAX : (uint32_t)n, &have);
    return code == SPR_OK || code == SPR_E_NO_SPACE ? PyLong_FromUnsignedLong(have) : fail(code);
}

static PyStructSequence_Field counters_fields[] = {
    {"unattached", "log calls that found no ring"},
    {"nested", "log calls that found another one of their thread open"},
    {"lost", "records lost"},
    {"spilled", "log calls whose record went to the spill"},
    {"attach_errno", "errno of the attach that failed, 0 = none did"},
    {NULL, NULL},
};

static PyStructSequence_Desc counters_desc = {"spillring.Counters", "Counters of this process.",
                                              counters_fields, 5};

static PyObject *py_counters(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    spr_counters c = SPR_COUNTERS_INIT;
    int code = spr_counters_get(&c);
    if (code != SPR_OK)
        return fail(code);
    PyObject *all = PyStructSequence_New(counters_type);
    if (!all)
        return NULL;
    const uint64_t values[] = {c.unattached, c.nested, c.lost, c.spilled, (uint64_t)c.attach_errno};
    for (int i = 0; i < 5; i++) {
        PyObject *v = PyLong_FromUnsignedLongLong(values[i]);
        if (!v) {
            Py_DECREF(all);
            return NULL;
        }
        PyStructSequence_SetItem(all, i, v);
    }
    return all;
}

static PyMethodDef functions[] = {
    {"init", py_init, METH_VARARGS, NULL},
    {"flush", py_flush, METH_O, NULL},
    {"shutdown", py_shutdown, METH_O, NULL},
    {"drain_present", py_drain_present, METH_NOARGS, NULL},
    {"thread_may_wait", py_thread_may_wait, METH_O, NULL},
    {"prepare", py_prepare, METH_O, NULL},
    {"counters", py_counters, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* A single phase and static objects: see the head of this file. */
static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "spillring._spillring", NULL, -1, functions, NULL, NULL, NULL, NULL};

/* Learns what a LogRecord looks like. */
static int learn(void) {
    PyObject *logging = PyImport_ImportModule("logging"), *record = NULL, *dict = NULL;
    int result = -1;
    if (!logging || !(log_record = PyObject_GetAttrString(logging, "LogRecord")) ||
        !(formatter = PyObject_CallMethod(logging, "Formatter", NULL)) ||
        !(record = PyObject_CallFunction(log_record, "sisisOO", "", 0, "", 0, "", Py_None, Py_None)) ||
        !(dict = PyObject_GetAttr(record, s_dict)) || !(known = PySet_New(dict)))
        goto end;
    static const char *const later[] = {"message", "asctime"};
    for (int i = 0; i < 2; i++) {
        PyObject *name = PyUnicode_InternFromString(later[i]);
        int r = name ? PySet_Add(known, name) : -1;
        Py_XDECREF(name);
        if (r != 0)
            goto end;
    }
    for (int i = 0; i < WANTED; i++)
        if (!(wanted[i] = PyUnicode_InternFromString(wanted_names[i])))
            goto end;
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (n_keys < MAX_KEYS && PyDict_Next(dict, &at, &key, &value)) {
        roles[n_keys] = -1;
        for (int i = 0; i < WANTED; i++)
            if (wanted[i] == key)
                roles[n_keys] = (signed char)i;
        keys[n_keys++] = ref(key);
    }
    result = 0;
end:
    Py_XDECREF(dict);
    Py_XDECREF(record);
    Py_XDECREF(logging);
    return result;
}

static int add(PyObject *module, const char *name, PyObject *o) {
    if (!o || PyModule_AddObject(module, name, ref(o)) != 0) {
        Py_XDECREF(o);
        return -1;
    }
    return 0;
}

PyMODINIT_FUNC PyInit__spillring(void) {
    static struct {
        PyObject **to;
        const char *text;
    } names[] = {{&s_dict, "__dict__"},
                 {&s_filter, "filter"},
                 {&s_emit, "emit"},
                 {&s_format, "format"},
                 {&s_report, "_report"},
                 {&s_get_message, "getMessage"},
                 {&s_format_exception, "formatException"},
                 {&s_code, "code"},
                 {&s_name, "name"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!*names[i].to && !(*names[i].to = PyUnicode_InternFromString(names[i].text)))
            return NULL;
    PyObject *time = PyImport_ImportModule("time");
    monotonic = time ? PyObject_GetAttrString(time, "monotonic") : NULL;
    Py_XDECREF(time);
    unset = PyObject_CallObject((PyObject *)&PyBaseObject_Type, NULL);
    if (!monotonic || !unset || (!log_record && learn() != 0))
        return NULL;
    Error = PyErr_NewExceptionWithDoc(
        "spillring.Error",
        "What the library could not do: `code` is its number (as in spillring.h), `name` its "
        "name, and str() says what, where, and what to do.",
        NULL, NULL);
    record_type = PyStructSequence_NewType(&record_desc);
    counters_type = PyStructSequence_NewType(&counters_desc);
    PyObject *emitter = PyType_FromSpec(&emitter_spec), *reader = PyType_FromSpec(&reader_spec);
    PyObject *module = PyModule_Create(&module_def);
    if (!module || add(module, "Error", Error) != 0 || add(module, "Record", (PyObject *)record_type) != 0 ||
        add(module, "Counters", (PyObject *)counters_type) != 0 || add(module, "Emitter", emitter) != 0 ||
        add(module, "Reader", reader) != 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
