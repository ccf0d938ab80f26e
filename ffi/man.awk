# Man pages from the header: one for each group, which begins with "/* == name: what == */". What stands in comments is
# the description; what does not is the synopsis.
function close_page() {
    if (page == "")
        return
    file = out "/" page ".3"
    printf ".Dd November 21, 2026\n.Dt %s 3\n.Os spillring %s\n.Sh NAME\n", toupper(page), version > file
    printf ".Nm %s\n.Nd %s\n.Sh LIBRARY\nlibspillring (pkg-config spillring)\n", page, what > file
    printf ".Sh SYNOPSIS\n.In spillring.h\n.Bd -literal\n%s.Ed\n.Sh DESCRIPTION\n%s", synopsis, text > file
    printf ".Sh SEE ALSO\n" > file
    for (i = 1; i <= groups; i++)
        if (names[i] != page)
            printf ".Xr %s 3%s\n", names[i], (i == groups || (i == groups - 1 && names[groups] == page)) ? "" : " ," > file
    close(file)
    page = ""
}
function escaped(s) {
    gsub(/\\/, "\\e", s)
    if (s ~ /^[.']/)
        s = "\\&" s
    return s
}
# What a comment stood before: its name is the head of the paragraph.
function head(line,   name) {
    if (line ~ /^#define/) {
        name = line
        sub(/^#define */, "", name)
        sub(/[^A-Za-z0-9_].*/, "", name)
    } else if (match(line, /spr_[a-z_]* *\(/)) {
        name = substr(line, RSTART, RLENGTH)
        sub(/ *\($/, "", name)
    } else if (match(line, /(struct|union) spr_[a-z_]*/)) {
        name = substr(line, RSTART, RLENGTH)
    } else
        name = ""
    return name
}
function paragraph(line,   name) {
    if (pending == "")
        return
    name = head(line)
    if (name != "")
        text = text ".Ss " name "\n" pending
    else
        text = text ".Pp\n" pending
    pending = ""
}
FNR == NR && FILENAME != "-" {
    all[FNR] = $0
    lines = FNR
    if ($0 ~ /^\/\* == spr_[a-z]*: .* == \*\/$/) {
        groups++
        n = $0
        sub(/^\/\* == /, "", n)
        sub(/:.*/, "", n)
        names[groups] = n
    }
}
END {
    for (k = 1; k <= lines; k++) {
        line = all[k]
        if (line ~ /^\/\* == spr_[a-z]*: .* == \*\/$/) {
            close_page()
            page = line
            sub(/^\/\* == /, "", page)
            what = page
            sub(/:.*/, "", page)
            sub(/^[a-z_]*: /, "", what)
            sub(/ == \*\/$/, "", what)
            synopsis = text = pending = ""
            continue
        }
        if (page == "" || line ~ /^#(if|endif|else)/ || line ~ /^(extern "C" \{|\})$/)
            continue
        if (line ~ /What follows is the macros' own/)
            break
        if (!comment && line ~ /^\/\*/)
            comment = 1
        if (comment) {
            ended = line ~ /\*\//
            sub(/ ?\*\/$/, "", line)
            sub(/^\/\*+ ?/, "", line)
            sub(/^ \* ?/, "", line)
            if (line == "") {
                if (pending != "" && !ended)
                    pending = pending ".Pp\n"
            } else
                pending = pending escaped(line) "\n"
            if (ended)
                comment = 0
            continue
        }
        if (line == "") {
            if (pending != "")
                paragraph("")
            if (synopsis !~ /\n\n$/ && synopsis != "")
                synopsis = synopsis "\n"
            continue
        }
        paragraph(line)
        # The bodies of macros and inline functions are nobody's business.
        if (line ~ /\\$/) {
            sub(/ *\\$/, "", line)
            synopsis = synopsis escaped(line) "\n"
            while (all[k] ~ /\\$/)
                k++
            continue
        }
        if (line ~ /^static inline/) {
            sub(/ \{$/, ";", line)
            synopsis = synopsis escaped(line) "\n"
            while (all[k] != "}")
                k++
            continue
        }
        synopsis = synopsis escaped(line) "\n"
    }
    close_page()
}
