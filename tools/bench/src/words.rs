//! Words for texts as people write them.

pub(crate) const WORDS: &str = "\
    about account after again amber answer april archive arrow autumn balance basket before bicycle \
    billing blue bottle branch bridge bright budget button cable calendar camera candle castle chair \
    charge cherry circle city client cloud coffee contract copper corner country credit crystal daily \
    dance delivery desert dinner discount doctor dollar draft dream early east electric empty engine \
    evening export failed family field final finger flower forest forward friday friend garden gentle \
    glass golden green ground hammer harbor height hidden holiday honest house icon import inside \
    invoice island january journal juice kitchen ladder lake lemon letter library light linen little \
    machine market meadow meeting member metal middle minute mirror monday monthly morning mountain \
    museum music nature needle network north notice number ocean office open orange order outside owner \
    paper partner pending pepper person phone picture planet pocket popular postal private project \
    purple quarter question quiet quote railway random ready receipt record refund region remote report \
    river round sailor school season second secret shadow shipped signal silver simple sister south \
    spring square station stone storm street student summer sunday supply surface table ticket timber \
    today total travel update urgent valley velvet village violet visit voice warehouse water weekly \
    window winter wonder yellow yesterday young zebra";
