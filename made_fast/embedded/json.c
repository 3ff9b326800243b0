/* Strict JSON of an untrusted file, as Python's `tensorfile.json_object` reads it: no name twice, finite numbers. */

#define _POSIX_C_SOURCE 200809L
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#include <xlocale.h>
#endif

#include "internal.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_JSON = 1 << 22, MAX_VALUES = 150000, MAX_DEPTH = 512, MAX_DIGITS = 4300 };
/* Python has no fixed depth; it gives up between 900 and 1000. */

typedef struct {
    const char *at, *end; /* what is left of the text; a 0 stands behind it */
    json_t *nodes;
    size_t n_nodes;
    char *strings; /* where the next one goes */
    const char *wrong;
    const json_t **sorted; /* room to sort the children of an object */
} parser_t;

static int wrong(parser_t *p, const char *why)
{
    if (!p->wrong) p->wrong = why;
    return 1;
}

static void skip_spaces(parser_t *p)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')) p->at++;
}

static int take(parser_t *p, char c)
{
    if (p->at == p->end || *p->at != c) return 0;
    p->at++;
    return 1;
}

/* The four hexadecimal digits at `at`, or -1. */
static int32_t four_digits(const parser_t *p, const char *at)
{
    int32_t value = 0;
    if (p->end - at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        const char c = at[i];
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) return -1;
        value = 16 * value + digit;
    }
    return value;
}

static void put_character(parser_t *p, uint32_t c)
{
    if (c < 0x80) {
        *p->strings++ = (char)c;
        return;
    }
    const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const unsigned char first[4] = {0, 0xc0, 0xe0, 0xf0};
    *p->strings++ = (char)(first[more] | c >> 6 * more);
    for (int i = more - 1; i >= 0; i--) *p->strings++ = (char)(0x80 | (c >> 6 * i & 0x3f));
}

/* What stands behind a backslash. */
static int parse_escape(parser_t *p)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (p->at == p->end) return wrong(p, "a string that does not end");
    const char c = *p->at++;
    const char *found = c ? strchr(from, c) : 0;
    if (found) {
        *p->strings++ = to[found - from];
        return 0;
    }
    int32_t code = c == 'u' ? four_digits(p, p->at) : -1;
    if (code < 0) return wrong(p, "a wrong escape");
    p->at += 4;
    if (code >= 0xd800 && code < 0xdc00 && p->end - p->at >= 6 && p->at[0] == '\\' && p->at[1] == 'u') {
        const int32_t low = four_digits(p, p->at + 2);
        if (low >= 0xdc00 && low < 0xe000) {
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            p->at += 6;
        }
    }
    if (code >= 0xd800 && code < 0xe000) return wrong(p, "half of a surrogate pair");
    put_character(p, (uint32_t)code);
    return 0;
}

/* A string, whose first quote is taken; its text ends with a 0 that does not count. */
static int parse_string(parser_t *p, text_t *text)
{
    char *const start = p->strings;
    for (;;) {
        if (p->at == p->end) return wrong(p, "a string that does not end");
        const unsigned char c = (unsigned char)*p->at++;
        if (c == '"') break;
        if (c < 0x20) return wrong(p, "a control character in a string");
        if (c != '\\')
            *p->strings++ = (char)c;
        else if (parse_escape(p))
            return 1;
    }
    *text = (text_t){start, (size_t)(p->strings - start)};
    *p->strings++ = 0;
    return 0;
}

static size_t skip_digits(parser_t *p)
{
    const char *start = p->at;
    while (p->at < p->end && *p->at >= '0' && *p->at <= '9') p->at++;
    return (size_t)(p->at - start);
}

static int parse_number(parser_t *p, json_t *node)
{
    const char *start = p->at;
    const int negative = take(p, '-');
    const char *digits = p->at;
    if (p->at < p->end && *p->at == '0')
        p->at++;
    else if (!skip_digits(p))
        return wrong(p, "something that is no value");
    const size_t n_digits = (size_t)(p->at - digits);
    node->kind = JSON_INT;
    if (take(p, '.')) {
        if (!skip_digits(p)) return wrong(p, "a number without digits behind its point");
        node->kind = JSON_FLOAT;
    }
    if (take(p, 'e') || take(p, 'E')) {
        if (!take(p, '-')) take(p, '+');
        if (!skip_digits(p)) return wrong(p, "a number without digits in its exponent");
        node->kind = JSON_FLOAT;
    }
    node->number = strtod(start, 0);
    node->count = -1;
    if (node->kind == JSON_FLOAT) return node->number - node->number == 0 ? 0 : wrong(p, "a number that is not finite");
    if (n_digits > MAX_DIGITS) return wrong(p, "a number of thousands of digits");
    if (n_digits > 18) return 0;
    node->count = 0;
    for (size_t i = 0; i < n_digits; i++) node->count = 10 * node->count + (digits[i] - '0');
    if (negative && node->count) node->count = -1;
    return 0;
}

static int by_key(const void *a, const void *b)
{
    const text_t x = (*(const json_t *const *)a)->key, y = (*(const json_t *const *)b)->key;
    if (x.n != y.n) return x.n < y.n ? -1 : 1;
    return memcmp(x.at, y.at, x.n);
}

static int check_unique(parser_t *p, const json_t *object)
{
    size_t i = (size_t)(object - p->nodes) + 1;
    for (size_t k = 0; k < object->n; i = p->nodes[i].end, k++) p->sorted[k] = p->nodes + i;
    qsort(p->sorted, object->n, sizeof(*p->sorted), by_key);
    for (size_t k = 1; k < object->n; k++)
        if (by_key(p->sorted + k - 1, p->sorted + k) == 0) return wrong(p, "a name twice in an object");
    return 0;
}

static int parse_value(parser_t *p, text_t key, int depth)
{
    const size_t at = p->n_nodes++;
    json_t *node = p->nodes + at;
    *node = (json_t){.key = key};
    if (p->at == p->end) return wrong(p, "an end where a value should be");
    if (depth > MAX_DEPTH) return wrong(p, "values nested too deep");
    static const struct {
        const char *word;
        int kind;
    } words[] = {{"null", JSON_NULL}, {"true", JSON_TRUE}, {"false", JSON_FALSE}};
    for (int i = 0; i < 3; i++) {
        const size_t n = strlen(words[i].word);
        if ((size_t)(p->end - p->at) < n || memcmp(p->at, words[i].word, n) != 0) continue;
        p->at += n;
        *node = (json_t){.key = key, .kind = words[i].kind, .end = at + 1};
        return 0;
    }
    const char open = *p->at;
    if (open == '"') {
        p->at++;
        node->kind = JSON_STRING;
        if (parse_string(p, &node->text)) return 1;
    } else if (open == '[' || open == '{') {
        const char close = open == '[' ? ']' : '}';
        p->at++;
        node->kind = open == '[' ? JSON_LIST : JSON_OBJECT;
        skip_spaces(p);
        for (int more = !take(p, close); more; more = take(p, ',')) {
            text_t name = {0, 0};
            skip_spaces(p);
            if (open == '{') {
                if (!take(p, '"')) return wrong(p, "an entry without a name");
                if (parse_string(p, &name)) return 1;
                skip_spaces(p);
                if (!take(p, ':')) return wrong(p, "a name without a colon");
                skip_spaces(p);
            }
            if (parse_value(p, name, depth + 1)) return 1;
            node->n++;
            skip_spaces(p);
        }
        if (node->n && !take(p, close)) return wrong(p, "a list or an object that does not end");
        node->end = p->n_nodes;
        return open == '{' ? check_unique(p, node) : 0;
    } else if (parse_number(p, node))
        return 1;
    node->end = at + 1;
    return 0;
}

/* Whether bytes are UTF-8: nothing longer than it must be, no surrogates, nothing beyond U+10FFFF. */
static int is_utf8(text_t text)
{
    const unsigned char *s = (const unsigned char *)text.at, *end = s + text.n;
    while (s < end) {
        const int more = *s < 0x80 ? 0 : *s < 0xc2 ? -1 : *s < 0xe0 ? 1 : *s < 0xf0 ? 2 : *s < 0xf5 ? 3 : -1;
        if (more < 0 || end - s <= more) return 0;
        for (int i = 1; i <= more; i++)
            if ((s[i] & 0xc0) != 0x80) return 0;
        if ((*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] > 0x9f) || (*s == 0xf0 && s[1] < 0x90) ||
            (*s == 0xf4 && s[1] > 0x8f))
            return 0;
        s += more + 1;
    }
    return 1;
}

/* Parse with the decimal point of JSON, whatever the locale of the process. */
static int parse_all(parser_t *p)
{
    const locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (plain == (locale_t)0) return wrong(p, "no memory for a locale");
    const locale_t before = uselocale(plain);
    skip_spaces(p);
    int failed = parse_value(p, (text_t){0, 0}, 0);
    skip_spaces(p);
    if (!failed && p->at != p->end) failed = wrong(p, "more behind its end");
    uselocale(before);
    freelocale(plain);
    return failed;
}

int mf_json(text_t text, const char *what, json_doc_t *doc, made_fast_error_t *error)
{
    size_t n_values = 0; /* or more, if strings have such characters */
    for (size_t i = 0; i < text.n; i++) n_values += text.at[i] == '[' || text.at[i] == '{' || text.at[i] == ',';
    *doc = (json_doc_t){0};
    if (text.n > MAX_JSON || n_values > MAX_VALUES)
        return mf_fail(error, MADE_FAST_BAD_FILE,
                       "%s must be at most %d bytes of JSON and %d values, got %zu bytes, %zu values. Keep less in it.", what,
                       MAX_JSON, MAX_VALUES, text.n, n_values);
    if (!is_utf8(text))
        return mf_fail(error, MADE_FAST_BAD_FILE, "%s must be UTF-8, got other bytes. The file is damaged.", what);
    char *copy = malloc(text.n + 1); /* with a 0 behind it, so that strtod stops */
    doc->nodes = malloc((n_values + 1) * sizeof(json_t));
    doc->strings = malloc(text.n + 1); /* each has a quote at both ends, and needs a 0 */
    const json_t **sorted = malloc((n_values + 1) * sizeof(*sorted));
    int failed = 1;
    if (copy && doc->nodes && doc->strings && sorted) {
        if (text.n) memcpy(copy, text.at, text.n);
        copy[text.n] = 0;
        parser_t p = {copy, copy + text.n, doc->nodes, 0, doc->strings, 0, sorted};
        failed = parse_all(&p);
        if (failed)
            mf_fail(error, MADE_FAST_BAD_FILE,
                    "%s must be strict JSON, got %s at byte %zu. The file is damaged, or not of made_fast.", what, p.wrong,
                    (size_t)(p.at - copy));
        else if (doc->nodes->kind != JSON_OBJECT)
            failed =
                mf_fail(error, MADE_FAST_BAD_FILE, "%s must be a JSON object, got another value. The file is damaged.", what);
    } else
        mf_no_memory(error);
    free(copy);
    free(sorted);
    if (failed) mf_json_free(doc);
    return failed;
}

void mf_json_free(json_doc_t *doc)
{
    free(doc->nodes);
    free(doc->strings);
    *doc = (json_doc_t){0};
}

const json_t *mf_json_find(const json_t *object, const json_t *nodes, const char *key)
{
    size_t i = (size_t)(object - nodes) + 1;
    for (size_t k = 0; k < object->n; i = nodes[i].end, k++)
        if (mf_is(nodes[i].key, key)) return nodes + i;
    return 0;
}
