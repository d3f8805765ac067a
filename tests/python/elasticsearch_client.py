"""The official Elasticsearch client against `/es`, used as its documentation says: nothing here knows of Headwater.

Called by tests/tests/elasticsearch.rs with the address of a running server.
"""

import sys

from elasticsearch import ApiError, BadRequestError, ConflictError, Elasticsearch, NotFoundError, helpers

BOOKS = [
    {"title": "Running databases", "body": "A torn write is not a lost write", "lang": "en", "pages": 320, "at": "2024-03-01"},
    {"title": "Logs", "body": "The log is the database", "lang": "en", "pages": 120, "at": "2024-03-01T12:00:00Z"},
    {"title": "Protokolle", "body": "Das Log ist die Datenbank", "lang": "de", "pages": 80, "at": "2023-12-24"},
]


def ids(answer):
    return [hit["_id"] for hit in answer["hits"]["hits"]]


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def mapped_index(es):
    es.indices.create(
        index="books",
        settings={"number_of_shards": 1, "number_of_replicas": 0},
        mappings={
            "properties": {
                "title": {"type": "text", "analyzer": "english", "fields": {"keyword": {"type": "keyword"}}},
                "body": {"type": "text"},
                "lang": {"type": "keyword"},
                "pages": {"type": "integer"},
                "at": {"type": "date"},
            }
        },
    )
    assert raises(BadRequestError, lambda: es.indices.create(index="books")).error == "resource_already_exists_exception"
    assert es.indices.exists(index="books") and not es.indices.exists(index="nothing")
    mapping = es.indices.get_mapping(index="books")["books"]["mappings"]["properties"]
    assert mapping["title"] == {"type": "text", "analyzer": "english", "fields": {"keyword": {"type": "keyword"}}}, mapping
    assert mapping["at"] == {"type": "date"}

    for number, book in enumerate(BOOKS):
        made = es.index(index="books", id=str(number), document=book)
        assert made["result"] == "created" and made["_shards"]["failed"] == 0, made
    es.indices.refresh(index="books")

    answer = es.search(index="books", query={"match": {"title": "run"}}, highlight={"fields": {"title": {}}})
    assert ids(answer) == ["0"] and answer["hits"]["total"] == {"value": 1, "relation": "eq"}, answer
    assert answer["hits"]["hits"][0]["_source"] == BOOKS[0]
    assert answer["hits"]["hits"][0]["highlight"]["title"] == ["<em>Running</em> databases"], answer
    assert answer["hits"]["max_score"] == answer["hits"]["hits"][0]["_score"] > 0
    assert ids(es.search(index="books", query={"match_phrase": {"body": "torn write"}})) == ["0"]
    assert ids(es.search(index="books", query={"term": {"title.keyword": "Logs"}})) == ["1"]
    assert ids(es.search(index="books", query={"terms": {"lang": ["de", "fr"]}})) == ["2"]
    assert ids(es.search(index="books", query={"range": {"pages": {"gte": 100, "lt": 320}}})) == ["1"]
    assert ids(es.search(index="books", query={"range": {"at": {"gte": "2024-01-01"}}}, sort=[{"pages": "asc"}])) == ["1", "0"]
    both = {"bool": {"must": [{"match": {"body": "log"}}], "filter": [{"term": {"lang": "en"}}], "must_not": [], "should": []}}
    assert ids(es.search(index="books", query=both)) == ["1"]
    assert ids(es.search(index="books", query={"multi_match": {"query": "database log", "fields": ["title^3", "body"]}}))[0] in "01"
    assert ids(es.search(index="books", q="torn OR Datenbank", sort="pages:asc")) == ["2", "0"]
    assert ids(es.search(index="books", query={"match": {"nothing": "x"}})) == []
    assert es.search(index="books", query={"match_none": {}})["hits"]["total"]["value"] == 0
    answer = es.search(
        index="books",
        size=0,
        aggs={
            "by_lang": {"terms": {"field": "lang"}, "aggs": {"pages": {"avg": {"field": "pages"}}}},
            "days": {"date_histogram": {"field": "at", "calendar_interval": "day", "min_doc_count": 1}},
        },
    )
    buckets = {bucket["key"]: (bucket["doc_count"], bucket["pages"]["value"]) for bucket in answer["aggregations"]["by_lang"]["buckets"]}
    assert buckets == {"en": (2, 220.0), "de": (1, 80.0)}, answer
    assert [bucket["doc_count"] for bucket in answer["aggregations"]["days"]["buckets"]] == [1, 2], answer
    answer = es.search(index="books", source=["title", "pages"], sort=[{"at": {"order": "desc"}}], size=1)
    assert answer["hits"]["hits"][0]["_source"] == {"title": "Logs", "pages": 120} and answer["hits"]["hits"][0]["sort"]
    after = answer["hits"]["hits"][0]["sort"]
    assert ids(es.search(index="books", sort=[{"at": {"order": "desc"}}], search_after=after)) == ["0", "2"]
    suggested = es.search(index="books", suggest={"typo": {"text": "databse", "term": {"field": "body"}}})["suggest"]["typo"][0]
    assert suggested["options"][0]["text"] == "database", suggested
    assert es.count(index="books", query={"match": {"body": "log"}})["count"] == 2
    assert es.count(index="books")["count"] == 3

    es.indices.put_mapping(index="books", properties={"isbn": {"type": "keyword"}})
    assert raises(BadRequestError, lambda: es.indices.put_mapping(index="books", properties={"lang": {"type": "date"}}))
    assert es.indices.get_mapping(index="books")["books"]["mappings"]["properties"]["isbn"] == {"type": "keyword"}


def documents(es):
    shown = es.get(index="books", id="1")
    assert shown["found"] and shown["_source"] == BOOKS[1]
    assert es.exists(index="books", id="1") and not es.exists(index="books", id="9")
    assert es.get_source(index="books", id="1") == BOOKS[1]
    assert raises(NotFoundError, lambda: es.get(index="books", id="9")).body["found"] is False
    updated = es.update(index="books", id="1", doc={"pages": 121, "author": {"name": "Ann"}})
    assert updated["result"] == "updated" and updated["_seq_no"] > shown["_seq_no"]
    assert es.get(index="books", id="1")["_source"] == {**BOOKS[1], "pages": 121, "author": {"name": "Ann"}}
    late = lambda: es.index(
        index="books", id="1", document={}, if_seq_no=shown["_seq_no"], if_primary_term=shown["_primary_term"]
    )
    assert raises(ConflictError, late).error == "version_conflict_engine_exception"
    raises(ConflictError, lambda: es.create(index="books", id="1", document={}))
    assert es.update(index="books", id="up", doc={"pages": 1}, doc_as_upsert=True)["result"] == "created"
    assert es.delete(index="books", id="up")["result"] == "deleted"
    assert raises(NotFoundError, lambda: es.delete(index="books", id="up")).body["result"] == "not_found"
    assert raises(NotFoundError, lambda: es.update(index="books", id="up", doc={})).error == "document_missing_exception"
    raises(BadRequestError, lambda: es.update(index="books", id="1", script="ctx._source.n = 1"))
    many = es.mget(index="books", ids=["0", "9"])["docs"]
    assert [document["found"] for document in many] == [True, False]
    own = es.index(index="books", document={"title": "without an id"}, refresh="wait_for")
    assert ids(es.search(index="books", query={"match": {"title": "without"}})) == [own["_id"]]
    found = es.search(index="books", query={"ids": {"values": ["1"]}}, version=True, seq_no_primary_term=True)["hits"]["hits"][0]
    now = es.get(index="books", id="1")
    assert (found["_version"], found["_seq_no"], found["_primary_term"]) == (now["_version"], now["_seq_no"], 1), found
    assert es.delete_by_query(index="books", query={"ids": {"values": [own["_id"]]}}, refresh=True)["deleted"] == 1
    assert es.count(index="books")["count"] == 3


def bulk(es):
    actions = [{"_index": "events", "_id": f"e{n}", "n": n, "kind": f"k{n % 7}", "text": f"event number {n}"} for n in range(5000)]
    assert helpers.bulk(es, actions, refresh="wait_for") == (5000, [])
    # Nobody declared anything: whatever came is found.
    assert es.count(index="events")["count"] == 5000
    assert ids(es.search(index="events", query={"term": {"kind.keyword": "k3"}}, sort=[{"n": "desc"}], size=2)) == ["e4994", "e4987"]
    assert es.search(index="events", query={"match": {"text": "4321"}})["hits"]["total"]["value"] == 1
    kinds = es.search(index="events", size=0, aggs={"k": {"terms": {"field": "kind.keyword"}}})["aggregations"]["k"]["buckets"]
    assert len(kinds) == 7 and sum(kind["doc_count"] for kind in kinds) == 5000, kinds
    properties = es.indices.get_mapping(index="events")["events"]["mappings"]["properties"]
    assert properties["n"] == {"type": "long"} and properties["kind"]["type"] == "text", properties
    assert sorted(hit["_source"]["n"] for hit in helpers.scan(es, index="events", size=700)) == list(range(5000))
    asked = helpers.scan(es, index="events", query={"query": {"term": {"kind.keyword": "k0"}}, "_source": False})
    assert sum(1 for _ in asked) == 715

    mixed = [
        {"_op_type": "create", "_index": "events", "_id": "e1", "n": 1},
        {"_op_type": "update", "_index": "events", "_id": "e2", "doc": {"seen": True}},
        {"_op_type": "delete", "_index": "events", "_id": "e3"},
        {"_op_type": "delete", "_index": "events", "_id": "none"},
        {"_op_type": "index", "_index": "events", "_id": "e4", "n": -4},
        {"_op_type": "index", "_index": "Events", "_id": "e5", "n": 5},
    ]
    outcomes = [list(item.values())[0] for _, item in helpers.streaming_bulk(es, mixed, raise_on_error=False)]
    assert [item["status"] for item in outcomes] == [409, 200, 200, 404, 200, 400], outcomes
    assert es.get(index="events", id="e2")["_source"]["seen"] is True
    assert es.get(index="events", id="e4")["_source"] == {"n": -4}
    es.indices.refresh()
    assert es.count(index="events")["count"] == 4999

    two = es.msearch(
        searches=[{"index": "events"}, {"query": {"term": {"n": 7}}}, {"index": "nothing"}, {"query": {"match_all": {}}}]
    )["responses"]
    assert ids(two[0]) == ["e7"] and two[1]["status"] == 404, two


def main(url):
    with Elasticsearch(url) as es:
        assert es.ping() and es.info()["tagline"] == "You Know, for Search"
        assert es.cluster.health()["status"] == "green"
        mapped_index(es)
        documents(es)
        bulk(es)
        listed = es.cat.indices(format="json", h="index,docs.count")
        assert [(row["index"], row["docs.count"]) for row in listed] == [("books", "3"), ("events", "4999")], listed
        assert "events" in str(es.cat.indices(index="ev*", v=True))
        missing = raises(NotFoundError, lambda: es.search(index="nothing", query={"match_all": {}}))
        assert missing.error == "index_not_found_exception"
        wrong = raises(BadRequestError, lambda: es.search(index="books", query={"mtch": {"title": "x"}}))
        assert "mtch" in str(wrong), wrong
        raises(ApiError, lambda: es.search(index="books", knn={"field": "v", "query_vector": [1.0], "k": 1, "num_candidates": 1}))
        es.indices.delete(index="events")
        assert not es.indices.exists(index="events")
    print("all of it")


main(sys.argv[1])
