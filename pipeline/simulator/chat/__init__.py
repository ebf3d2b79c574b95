"""Chat completions without HTTP: a call is checked and counted, then answered.

    models      what a model can and must do, from the catalogue
    call        a request as a wire format reads it, in one form for both dialects
    ask         a valid call, as far as it shapes the answer, or the documented refusal
    parameters  ranges and types of the parameters
    prompt      prompt tokens: texts, images, frames, tools, documents, search
    media       how large a picture or video behind a URL is
    pictures    width and height from an image file's header
    respond     the answer: content, reasoning, tool calls, cut where asked
    tool_calls  plausible calls from the declared tools
    pieces      a text in the pieces a stream sends, and their log probabilities

Nothing here waits, counts requests or knows what the bytes on the wire look like.
"""
