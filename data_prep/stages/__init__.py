"""From inputs to a corpus, in stages that can be killed anywhere:

    plan          what there is to read, cut into segments and parts; how many shards there will be
    tokenize      a part of the input -> a part file, its documents sorted into buckets by a random key
    deduplicate   signatures of all parts -> the documents that nearly repeat an earlier one
    pack          the buckets of a shard, from all part files -> its rows
    publish       final names, manifest

What a stage has finished lies under its final name in OUT/.work; what it was doing when it was killed is
done again. The bytes of the result depend on the plan alone.
"""
