"""A result as text, JSON, CSV, Markdown, HTML and CI annotations.

    columns     the columns of every table, once; values as plain text
    words       the verdict, what missed and by how much, what was left alone, what trains where
    layout      columns that fit a terminal
    text        for a terminal or a log
    github      annotations of a GitHub workflow
    document    plain values, and JSON; schema.json says what each is
    tabular     CSV
    markdown    for the summary of a CI job
    sections    names, tables and lists in HTML
    axes        where a value stands in a figure, and its ticks
    figures     the pictures as SVG
    page        the page: page.html with page.css and page.js
    formats     suffix of a file -> format
    writing     the file

A format is a function of a result, what else is known `about` it, the command and perhaps an `other` result; it returns
a string. Another one is a module, and an entry in `formats`. Nothing is imported here, so that the command's help can
ask `formats` for the suffixes without loading the rest.
"""
