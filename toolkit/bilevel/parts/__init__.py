"""What the bilevel methods share: how is one step of any of them put together?"""
