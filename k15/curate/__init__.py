"""From raw rows to a versioned prompt store (report 2.1).

rows ─▶ readable, unique ids ─▶ no multiple choice, true/false, proof ─▶ no leak ─▶ no duplicate ─▶ not in an evaluation set
     ─▶ tags ─▶ not easy to guess ─▶ difficulty by pass rate ─▶ balanced by tag ─▶ store
"""
