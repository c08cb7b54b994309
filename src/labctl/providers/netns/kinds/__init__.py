"""The kinds of objects that a netns lab is made of. Each has its words, its act, its reading back and its undo in one
module; `registry` lists them. They know Linux alone: which objects a lab has is for `networks` and `fabrics` to say."""
